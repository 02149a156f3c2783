import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from logitstore.codec import probability_error
from logitstore.errors import InvalidInput, StoreError
from logitstore.samplers import RandomSampling, Threshold, TopK, TopP
from logitstore.store import create_store, open_store, store_statistics, verify_store
from logitstore.store.storage import LocalStorage
from logitstore.targets import SparseTargets
from tests.support.stores import make_store, random_targets


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("sampler", [RandomSampling(20), RandomSampling(9, 0.8), Threshold(9), TopK(7), TopP(0.8)])
def test_what_was_appended_is_read_back(tmp_path, sampler, bits):
    lengths, options = [5, 1, 9, 30, 2], {"sequences_per_shard": 2, "probability_bits": bits}
    tokens, targets = make_store(tmp_path / "s", sampler=sampler, lengths=lengths, **options)
    store = open_store(tmp_path / "s")
    rounded = sampler.name in ("top-k", "top-p")
    assert store.manifest.get("probability_bits") == (bits if rounded else None)
    assert len(store) == 5
    assert store.sequence_lengths.tolist() == [5, 1, 9, 30, 2]
    for index, sequence in enumerate(store):
        assert sequence.tokens.dtype == torch.int32
        assert sequence.tokens.tolist() == tokens[index].tolist()
        found, wanted = sequence.targets, targets[index]
        assert torch.equal(found.offsets, wanted.offsets)
        assert torch.equal(found.ids, wanted.ids)
        errors = (found.weights.double() - wanted.weights.double()).abs().tolist()
        allowed = [probability_error(p, 2**bits - 1) if rounded else 0 for p in wanted.weights.tolist()]
        assert all(error <= bound for error, bound in zip(errors, allowed, strict=True))
        assert (found.sampler, found.teacher_temperature) == (sampler.name, 1.0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(1, 5), st.integers(0, 1000))
def test_any_lengths_and_shard_sizes_round_trip(tmp_path_factory, lengths, per_shard, seed):
    path = tmp_path_factory.mktemp("any") / "s"
    tokens, targets = make_store(path, lengths=lengths, sequences_per_shard=per_shard, seed=seed)
    store = open_store(path)
    assert verify_store(path) == []
    for index, sequence in enumerate(store):
        assert sequence.tokens.tolist() == tokens[index].tolist()
        assert torch.equal(sequence.targets.ids, targets[index].ids)
        assert torch.equal(sequence.targets.weights, targets[index].weights)


def test_vocabularies_up_to_a_million_do_not_wrap(tmp_path):
    vocab_size = 1 << 20
    ids = torch.tensor([0, 131_072, vocab_size - 1], dtype=torch.int32)
    targets = SparseTargets(torch.tensor([0, 3]), ids, torch.tensor([0.25, 0.5, 0.25]))
    with create_store(tmp_path / "s", vocab_size=vocab_size, sampler=RandomSampling(4)) as writer:
        writer.append([vocab_size - 1], targets)
    sequence = open_store(tmp_path / "s")[0]
    assert sequence.targets.ids.tolist() == ids.tolist()
    assert sequence.tokens.tolist() == [vocab_size - 1]
    with pytest.raises(InvalidInput, match="vocab_size is"):
        create_store(tmp_path / "t", vocab_size=vocab_size + 1, sampler=RandomSampling(4))


def test_masked_positions_entropy_and_document_starts_are_kept(tmp_path):
    targets = SparseTargets(
        torch.tensor([0, 0, 1, 1]),
        torch.tensor([4], dtype=torch.int32),
        torch.tensor([1.0]),
        teacher_entropy=torch.tensor([0.0, 1.5, 2.5]),
    )
    with create_store(tmp_path / "s", vocab_size=10, sampler=RandomSampling(4), eod_id=3) as writer:
        writer.append([1, 2, 3], targets, document_starts=[1, 2])
    store = open_store(tmp_path / "s")
    assert store[0].targets.counts.tolist() == [0, 1, 0]
    assert store[0].targets.teacher_entropy.tolist() == [0.0, 1.5, 2.5]
    assert store[0].document_starts.tolist() == [1, 2]
    assert store_statistics(tmp_path / "s")["positions"] == 1
    assert store.manifest["eod_id"] == 3


def test_stock_zarr_opens_the_array(tmp_path):
    import zarr

    make_store(tmp_path / "s", lengths=[3] * 7, sequences_per_shard=3)
    store = open_store(tmp_path / "s")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        array = zarr.open_group(tmp_path / "s", mode="r")["sequences"]
        assert array.shape == (7,)
        for index in range(7):
            assert array[index : index + 1][0] == store.read_blob(index)


def test_shards_are_the_bytes_that_zarr_writes(tmp_path):
    import zarr
    from zarr.core.dtype import VariableLengthBytes

    make_store(tmp_path / "s", lengths=[4] * 5, sequences_per_shard=3)
    store = open_store(tmp_path / "s")
    blobs = np.array([store.read_blob(index) for index in range(5)] + [b""], dtype=object)[:5]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = zarr.create_array(
            tmp_path / "z", shape=(5,), chunks=(1,), shards=(3,), dtype=VariableLengthBytes(), compressors=None
        )
        array[:] = blobs
    for shard in ("c/0", "c/1"):
        assert (tmp_path / "z" / shard).read_bytes() == (tmp_path / "s" / "sequences" / shard).read_bytes()


def test_statistics_add_up(tmp_path):
    _, targets = make_store(tmp_path / "s", lengths=[5, 8, 13])
    statistics = store_statistics(tmp_path / "s")
    assert statistics["sequences"] == 3
    assert statistics["tokens"] == statistics["positions"] == 26
    assert statistics["entries"] == sum(part.num_entries for part in targets)
    assert statistics["bytes_total"] == LocalStorage(tmp_path / "s").total_bytes()
    assert sum(statistics["bytes_per_position_split"].values()) == pytest.approx(statistics["bytes_per_position"])


def test_the_identity_is_of_content_and_settings_not_of_the_hour(tmp_path, monkeypatch):
    from logitstore.store import manifest

    make_store(tmp_path / "a", lengths=[3, 4])
    monkeypatch.setattr(manifest, "_versions", lambda: {"torch": "other"})
    make_store(tmp_path / "b", lengths=[3, 4])
    make_store(tmp_path / "c", lengths=[3, 4], seed=1)
    a, b, c = (open_store(tmp_path / name).manifest_sha256 for name in "abc")
    assert a == b != c


def test_max_id_is_the_largest_id_that_occurs(tmp_path):
    tokens, targets = make_store(tmp_path / "s", lengths=[3, 4], vocab_size=900)
    wanted = max(int(part.max()) for part in [*tokens, *(sparse.ids for sparse in targets)])
    assert open_store(tmp_path / "s").max_id == wanted < 899


def test_a_store_pickles_and_negative_indices_count_from_the_end(tmp_path):
    make_store(tmp_path / "s", lengths=[2, 3])
    store = pickle.loads(pickle.dumps(open_store(tmp_path / "s")))
    assert store[-1].index == 1
    for index in (2, -3):
        with pytest.raises(IndexError, match="the store has 2"):
            store[index]


def test_a_sealed_store_holds_no_scaffolding(tmp_path):
    make_store(tmp_path / "s", lengths=[2, 3])
    names = {path.name for path in (tmp_path / "s").iterdir()}
    assert names == {"manifest.json", "sealed.json", "index.parquet", "frequencies.bin", "zarr.json", "sequences"}


def test_an_error_leaves_committed_shards_and_resume_goes_on(tmp_path):
    tokens, targets = random_targets([4] * 7)
    options = {"vocab_size": 50, "sampler": RandomSampling(8), "sequences_per_shard": 2}

    def interrupted():
        with create_store(tmp_path / "s", **options) as writer:
            for index in range(5):
                writer.append(tokens[index], targets[index])
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        interrupted()
    with pytest.raises(StoreError) as caught:
        open_store(tmp_path / "s")
    assert caught.value.kind == "not-sealed"
    with create_store(tmp_path / "s", resume=True, **options) as writer:
        assert writer.num_sequences == 4
        for index in range(4, 7):
            writer.append(tokens[index], targets[index])
    with create_store(tmp_path / "whole", **options) as writer:
        for index in range(7):
            writer.append(tokens[index], targets[index])
    for shard in range(4):
        name = f"sequences/c/{shard}"
        assert (tmp_path / "s" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(StoreError) as caught:
        create_store(tmp_path / "s", resume=True, **options | {"sampler": RandomSampling(9)})
    assert caught.value.kind == "settings-differ"
    assert "sampler.draws: the store has 8, asked for was 9" in str(caught.value)
