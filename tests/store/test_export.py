import json
import re
from pathlib import Path

import numcodecs
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import zarr

from logitstore.errors import InvalidInput, StoreError
from logitstore.samplers import RandomSampling, Threshold, TopK
from logitstore.store import create_store, export_parquet, export_store, export_zarr, open_store
from logitstore.targets import SparseTargets
from tests.support.stores import VOCAB_SIZE, make_store

LENGTHS = [5, 1, 9, 30, 2, 17]


@pytest.fixture(params=[Threshold(9), RandomSampling(9, 0.8), TopK(7)], ids=str)
def path(request, tmp_path):
    make_store(tmp_path / "s", lengths=LENGTHS, sampler=request.param)
    return tmp_path / "s"


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(export_parquet, "_GROUP_ENTRIES", 60)
    monkeypatch.setattr(export_parquet, "_GROUPS_PER_FILE", 2)
    monkeypatch.setattr(export_zarr, "_CHUNK_VALUES", 13)
    monkeypatch.setattr(export_zarr, "_DENSE_CHUNK_VALUES", 7 * VOCAB_SIZE)


@pytest.mark.usefixtures("small_pieces")
def test_parquet_holds_a_row_a_sequence(path, tmp_path):
    export_store(path, tmp_path / "out", format="parquet")
    store = open_store(path)
    assert len(list((tmp_path / "out").iterdir())) > 1
    rows = [row for file in sorted((tmp_path / "out").iterdir()) for row in pq.read_table(file).to_pylist()]
    assert len(rows) == len(store)
    for row, sequence in zip(rows, store, strict=True):
        assert row["sequence"] == sequence.index
        assert row["tokens"] == sequence.tokens.tolist()
        targets = sequence.targets
        for position, (ids, weights) in enumerate(zip(row["ids"], row["weights"], strict=True)):
            entries = targets.slice(position, position + 1)
            assert ids == entries.ids.tolist()
            assert np.array_equal(np.float32(weights), entries.weights.numpy())
    metadata = json.loads(pq.read_schema(tmp_path / "out" / "part-00000.parquet").metadata[b"logitstore"])
    assert metadata["store_sha256"] == store.manifest_sha256
    assert metadata["sampler"] == store.manifest["sampler"]


@pytest.mark.usefixtures("small_pieces")
def test_flat_arrays_are_the_sparse_rows(path, tmp_path):
    export_store(path, tmp_path / "out", format="zarr-flat")
    store, group = open_store(path), zarr.open_group(tmp_path / "out", mode="r")
    assert group["sequence_offsets"][:].tolist() == [0, *np.cumsum(LENGTHS).tolist()]
    assert group["tokens"][:].tolist() == [token for sequence in store for token in sequence.tokens.tolist()]
    offsets = group["offsets"][:]
    assert len(offsets) == sum(LENGTHS) + 1
    assert np.array_equal(group["ids"][:], np.concatenate([s.targets.ids.numpy() for s in store]))
    assert np.array_equal(group["weights"][:], np.concatenate([s.targets.weights.numpy() for s in store]))
    third = store[2].targets
    first = int(group["sequence_offsets"][2])
    assert np.array_equal(offsets[first : first + 10] - offsets[first], third.offsets.numpy())
    assert group.attrs["logitstore"]["vocab_size"] == VOCAB_SIZE


@pytest.mark.usefixtures("small_pieces")
def test_dense_rows_are_the_targets(path, tmp_path):
    export_store(path, tmp_path / "out", format="dense", limit_sequences=4)
    store, group = open_store(path), zarr.open_group(tmp_path / "out", mode="r")
    dense = group["probabilities"][:]
    assert dense.shape == (sum(LENGTHS[:4]), VOCAB_SIZE)
    wanted = torch.cat([store[index].targets.to_dense(VOCAB_SIZE) for index in range(4)])
    assert np.array_equal(dense, wanted.numpy())


@pytest.mark.parametrize("form", ["parquet", "zarr-flat", "dense"])
def test_statistics_and_masked_positions_are_exported(tmp_path, form):
    targets = SparseTargets(
        torch.tensor([0, 0, 1, 1]),
        torch.tensor([4], dtype=torch.int32),
        torch.tensor([1.0]),
        teacher_entropy=torch.tensor([0.0, 1.5, 2.5]),
    )
    with create_store(tmp_path / "s", vocab_size=10, sampler=RandomSampling(4)) as writer:
        writer.append([1, 2, 3], targets, document_starts=[1, 2])
    export_store(tmp_path / "s", tmp_path / "out", format=form)
    if form == "parquet":
        (row,) = pq.read_table(tmp_path / "out").to_pylist()
        assert (row["ids"], row["entropy"], row["document_starts"]) == ([[], [4], []], [0.0, 1.5, 2.5], [1, 2])
        return
    group = zarr.open_group(tmp_path / "out", mode="r")
    assert group["entropy"][:].tolist() == [0.0, 1.5, 2.5]
    if form == "dense":
        assert group["probabilities"][:].sum(axis=1).tolist() == [0, 1, 0]
    else:
        assert group["offsets"][:].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("form", ["parquet", "zarr-flat", "dense"])
def test_a_store_without_any_entry_is_exported(tmp_path, form):
    nothing = SparseTargets(torch.zeros(3, dtype=torch.int64), torch.zeros(0, dtype=torch.int32), torch.zeros(0))
    with create_store(tmp_path / "s", vocab_size=10, sampler=RandomSampling(4)) as writer:
        writer.append([1, 2], nothing)
    export_store(tmp_path / "s", tmp_path / "out", format=form)
    if form == "zarr-flat":
        assert zarr.open_group(tmp_path / "out", mode="r")["ids"].shape == (0,)


def test_what_cannot_be_exported_is_refused_and_nothing_is_left(tmp_path):
    make_store(tmp_path / "s", lengths=LENGTHS, sequences_per_shard=2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(StoreError) as caught:
        export_store(tmp_path / "s", tmp_path / "mine", format="parquet")
    assert caught.value.kind == "exists"
    for options in ({"format": "csv"}, {"format": "parquet", "limit_sequences": 0}):
        with pytest.raises(InvalidInput):
            export_store(tmp_path / "s", tmp_path / "out", **options)
    shard = tmp_path / "s" / "sequences" / "c" / "1"
    shard.write_bytes(shard.read_bytes()[:-1])
    for form in ("parquet", "zarr-flat", "dense"):
        with pytest.raises(StoreError, match="sequence 2"):
            export_store(tmp_path / "s", tmp_path / "out", format=form)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "s"]


def test_progress_counts_positions(tmp_path):
    make_store(tmp_path / "s", lengths=LENGTHS)
    seen = []
    export_store(tmp_path / "s", tmp_path / "out", format="parquet", progress=lambda *both: seen.append(both))
    assert seen == list(zip(np.cumsum(LENGTHS).tolist(), [sum(LENGTHS)] * len(LENGTHS), strict=True))


def test_stock_zarr_and_numcodecs_read_a_store(path):
    store = open_store(path)
    sealed = json.loads((path / "sealed.json").read_text())
    config = {"id": "logitstore", "table_path": str(path / "frequencies.bin"), "table_sha256": sealed["table_sha256"]}
    codec = numcodecs.get_codec(config)
    blobs = zarr.open_group(path, mode="r")["sequences"]
    assert blobs.shape == (len(LENGTHS),)
    for sequence in store:
        entries = codec.decode(blobs[sequence.index : sequence.index + 1][0])
        assert entries["position"].tolist() == sequence.targets.rows.tolist()
        assert entries["id"].tolist() == sequence.targets.ids.tolist()
        assert np.array_equal(entries["weight"], sequence.targets.weights.numpy())
    assert numcodecs.get_codec(codec.get_config()) == codec


def test_the_code_of_the_guide_runs(tmp_path, monkeypatch):
    _, targets = make_store(tmp_path / "my-store", lengths=[20, 30, 4, 5])
    export_store(tmp_path / "my-store", tmp_path / "my-lists", format="parquet")
    export_store(tmp_path / "my-store", tmp_path / "my-arrays", format="zarr-flat")
    monkeypatch.chdir(tmp_path)
    guide = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", guide, re.MULTILINE)
    assert len(blocks) == 2
    found = {}
    for block in blocks:
        exec(re.sub(r"^    ", "", block.strip("\n"), flags=re.MULTILINE), found)
    assert found["entries"]["id"].tolist() == targets[3].ids.tolist()
