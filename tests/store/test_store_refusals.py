import json

import numpy as np
import pytest
import torch

from logitstore.errors import InvalidInput, StoreError
from logitstore.samplers import RandomSampling, TopK
from logitstore.store import create_store, open_store, verify_store
from logitstore.store.frequency_table import fit_table, publish_table
from logitstore.store.manifest import read_manifest
from logitstore.store.storage import LocalStorage
from logitstore.store.writer import UnitWriter
from logitstore.targets import SparseTargets
from tests.support.stores import make_store, random_targets


def refused(kind, function, *arguments, match=""):
    with pytest.raises(StoreError, match=match) as caught:
        function(*arguments)
    assert caught.value.kind == kind
    return caught.value


def test_a_path_that_is_no_store_is_refused(tmp_path):
    assert refused("not-a-store", open_store, tmp_path / "nothing", match="does not exist").exit_code == 2
    refused("not-a-store", open_store, tmp_path, match="is empty")
    (tmp_path / "other.txt").write_text("x")
    refused("not-a-store", open_store, tmp_path, match="has no manifest.json")
    (tmp_path / "manifest.json").write_text('{"format": "other"}')
    refused("not-a-store", open_store, tmp_path, match="something else")


def test_an_unfinished_store_is_refused(tmp_path):
    create_store(tmp_path / "s", vocab_size=9, sampler=RandomSampling(3))
    for function in (open_store, verify_store):
        assert refused("not-sealed", function, tmp_path / "s", match="--resume").exit_code == 2


def test_a_newer_format_is_refused_by_name(tmp_path):
    make_store(tmp_path / "s", lengths=[3])
    path = tmp_path / "s" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    error = refused(
        "newer-format", open_store, tmp_path / "s", match="format version 99; this logitstore reads up to 2"
    )
    assert error.exit_code == 2


def test_a_format_that_no_release_wrote_is_refused_by_name(tmp_path):
    make_store(tmp_path / "s", lengths=[3])
    path = tmp_path / "s" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 1}))
    for function in (open_store, verify_store):
        error = refused("unsupported-format", function, tmp_path / "s", match="format version 1, which no release")
        assert error.exit_code == 2


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda path, other: path.unlink(), "missing-table"),
        (lambda path, other: path.write_bytes(other.read_bytes()), "wrong-table"),
        (lambda path, other: path.write_bytes(path.read_bytes()[:-1]), "corrupt-table"),
    ],
)
def test_a_frequency_table_that_is_not_the_stores_is_refused(tmp_path, change, kind):
    make_store(tmp_path / "s", lengths=[3] * 5)
    make_store(tmp_path / "other", lengths=[9] * 5, seed=1)
    change(tmp_path / "s" / "frequencies.bin", tmp_path / "other" / "frequencies.bin")
    refused(kind, open_store(tmp_path / "s").__getitem__, 0, match=r"frequencies\.bin")
    assert [(f.kind, f.where) for f in verify_store(tmp_path / "s")] == [(kind, "frequencies.bin")]


def test_an_existing_path_is_refused_and_left_alone(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("s", "file"):
        with pytest.raises(StoreError, match="exists"):
            create_store(tmp_path / name, vocab_size=9, sampler=RandomSampling(3))
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["mine.txt"]


def test_an_empty_store_is_refused(tmp_path):
    with (
        pytest.raises(InvalidInput, match="nothing was appended"),
        create_store(tmp_path / "s", vocab_size=9, sampler=RandomSampling(3)),
    ):
        pass


def sparse(ids, weights, offsets=(0, 1), **more):
    return SparseTargets(
        torch.tensor(offsets), torch.tensor(ids, dtype=torch.int32), torch.tensor(weights, dtype=torch.float32), **more
    )


BAD_APPENDS = {
    "lengths": ([1, 2], sparse([1], [1.0]), "2 tokens and targets of 1 positions"),
    "no tokens": ([], sparse([], [], offsets=(0,)), "at least one token|whole numbers"),
    "token range": ([9], sparse([1], [1.0]), "reach from 9 to 9; 0 to 8"),
    "id range": ([1], sparse([9], [1.0]), "token id 9"),
    "no count": ([1], sparse([1, 2], [0.6, 0.4], offsets=(0, 2)), "no count out of 4 draws"),
    "sum": ([1], sparse([1], [0.5]), "sum to 0.5; 1 was wanted"),
    "nan": ([1], sparse([1], [float("nan")]), "NaN or infinite"),
    "order": ([1], sparse([2, 1], [0.5, 0.5], offsets=(0, 2)), "sequence 1: position 0 .* rise strictly"),
    "repeated": ([1], sparse([2, 2], [0.5, 0.5], offsets=(0, 2)), "sequence 1: position 0 .* rise strictly"),
    "sampler": ([1], sparse([1], [1.0], sampler="top-k"), "targets of top-k, the store is for random-sampling"),
    "temperature": ([1], sparse([1], [1.0], teacher_temperature=2.0), "teacher temperature 2.0"),
}


@pytest.mark.parametrize("name", BAD_APPENDS)
def test_what_does_not_fit_is_refused_and_the_writer_goes_on(tmp_path, name):
    tokens, targets, match = BAD_APPENDS[name]
    with create_store(tmp_path / "s", vocab_size=9, sampler=RandomSampling(4)) as writer:
        writer.append([1], sparse([1], [1.0]))
        with pytest.raises(InvalidInput, match=match):
            writer.append(tokens, targets)
        writer.append([2], sparse([3], [1.0]))
    assert [sequence.tokens.tolist() for sequence in open_store(tmp_path / "s")] == [[1], [2]]


def test_top_k_weights_above_one_are_refused(tmp_path):
    with (
        pytest.raises(InvalidInput, match=r"sum to 1\.2; at most 1"),
        create_store(tmp_path / "s", vocab_size=9, sampler=TopK(2)) as writer,
    ):
        writer.append([1], sparse([1, 2], [0.6, 0.6], offsets=(0, 2)))


@pytest.mark.parametrize(
    "name", ["sequences/c/0", "sequences/c/1", "index.parquet", "manifest.json", "frequencies.bin"]
)
def test_a_missing_file_is_an_error_never_zeros(tmp_path, name):
    make_store(tmp_path / "s", lengths=[3] * 5, sequences_per_shard=3)
    (tmp_path / "s" / name).unlink()
    with pytest.raises(StoreError):
        [sequence.targets for sequence in open_store(tmp_path / "s")]


def test_swapped_shards_are_noticed(tmp_path):
    make_store(tmp_path / "s", lengths=[3] * 4, sequences_per_shard=2)
    shards = tmp_path / "s" / "sequences" / "c"
    (shards / "0").rename(shards / "x")
    (shards / "1").rename(shards / "0")
    (shards / "x").rename(shards / "1")
    store = open_store(tmp_path / "s")
    refused("checksum-mismatch", store.__getitem__, 0, match="not this store's")
    assert {finding.kind for finding in verify_store(tmp_path / "s")} == {"checksum-mismatch"}


def test_a_flipped_bit_or_a_cut_anywhere_is_found_by_verify(tmp_path):
    make_store(tmp_path / "s", lengths=[3, 4], sequences_per_shard=2)
    files = [path for path in sorted((tmp_path / "s").rglob("*")) if path.is_file() and path.name != "zarr.json"]
    assert len(files) == 5
    for path in files:
        data = path.read_bytes()
        for place in range(0, len(data), max(1, len(data) // 25)):
            changed = bytearray(data)
            changed[place] ^= 1 << (place % 8)
            for damaged in (bytes(changed), data[:place]):
                path.write_bytes(damaged)
                assert is_noticed(tmp_path / "s"), (path.name, place)
        path.write_bytes(data)
    assert verify_store(tmp_path / "s") == []


def is_noticed(path):
    try:
        return bool(verify_store(path))
    except StoreError:
        return True


def test_orphans_are_found(tmp_path):
    make_store(tmp_path / "s", lengths=[3])
    (tmp_path / "s" / "stray").write_text("x")
    (tmp_path / "s" / "sequences" / "c" / "7").write_text("x")
    assert [(f.kind, f.where) for f in verify_store(tmp_path / "s")] == [
        ("orphan", "sequences/c/7"),
        ("orphan", "stray"),
    ]


def test_random_targets_helper_draws_different_sequences():
    tokens, targets = random_targets([6, 6])
    assert tokens[0].tolist() != tokens[1].tolist()
    assert targets[0].ids.tolist() != targets[1].ids.tolist()


def test_one_draw_too_many_of_the_most_draws_is_noticed(tmp_path):
    draws = 65_535
    with create_store(tmp_path / "s", vocab_size=9, sampler=RandomSampling(draws)) as writer:
        writer.append([1], sparse([1, 2], [1 / draws, (draws - 1) / draws], offsets=(0, 2)))
        with pytest.raises(InvalidInput, match="1 was wanted"):
            writer.append([1], sparse([1, 2], [2 / draws, (draws - 1) / draws], offsets=(0, 2)))


@pytest.mark.parametrize(
    "more",
    [{"head_counts": torch.ones(1, dtype=torch.int32)}, {"probabilities": torch.ones(1)}],
)
def test_what_a_store_would_not_keep_is_refused(tmp_path, more):
    with create_store(tmp_path / "s", vocab_size=9, sampler=RandomSampling(4)) as writer:
        writer.append([1], sparse([1], [1.0]))
        with pytest.raises(InvalidInput, match=f"has {next(iter(more))}"):
            writer.append([1], sparse([1], [1.0], **more))


def half_written(path, seed):
    """Write a store of one shard up to the shard, without its commit record."""
    tokens, targets = random_targets([3, 4], seed=seed)
    storage = LocalStorage(path)
    manifest = read_manifest(storage)
    unit = UnitWriter(storage, 0, manifest, publish_table(storage, fit_table([], manifest)))
    with unit:
        for ids, part in zip(tokens, targets, strict=True):
            unit.append(ids, part, np.zeros(0, np.int32))
        unit._shard.publish("sequences/c/0")
    return tokens, targets


def test_a_shard_published_first_stays_though_a_later_draw_differs(tmp_path):
    options = {"vocab_size": 50, "sampler": RandomSampling(8), "sequences_per_shard": 2}
    create_store(tmp_path / "s", **options)
    tokens, first = half_written(tmp_path / "s", seed=0)
    _, other = random_targets([3, 4], seed=1)
    with create_store(tmp_path / "s", resume=True, **options) as writer:
        for ids, part in zip(tokens, other, strict=True):
            writer.append(ids, part)
    store = open_store(tmp_path / "s")
    assert [sequence.targets.ids.tolist() for sequence in store] == [part.ids.tolist() for part in first]
    assert first[0].ids.tolist() != other[0].ids.tolist()
    assert verify_store(tmp_path / "s") == []


def test_a_shard_of_other_tokens_is_never_taken_over(tmp_path):
    options = {"vocab_size": 50, "sampler": RandomSampling(8), "sequences_per_shard": 2}
    create_store(tmp_path / "s", **options)
    half_written(tmp_path / "s", seed=0)
    tokens, targets = random_targets([3, 4], seed=1)
    writer = create_store(tmp_path / "s", resume=True, **options)
    writer.append(tokens[0], targets[0])
    refused("duplicate-differs", writer.append, tokens[1], targets[1], match="holds other tokens")


def test_a_second_commit_that_differs_is_reported_and_the_first_stays(tmp_path):
    options = {"vocab_size": 50, "sampler": RandomSampling(8), "sequences_per_shard": 2}
    create_store(tmp_path / "s", **options)
    manifest = read_manifest(LocalStorage(tmp_path / "s"))
    table = fit_table([], manifest)
    tokens, targets = random_targets([3, 4])
    for settings in (manifest, manifest | {"seed": 5}):
        with UnitWriter(LocalStorage(tmp_path / "s"), 0, settings, table) as unit:
            for ids, part in zip(tokens, targets, strict=True):
                unit.append(ids, part, np.zeros(0, np.int32))
            if settings is manifest:
                unit.commit()
                before = (tmp_path / "s" / "commits" / "00000000.parquet").read_bytes()
            else:
                refused("duplicate-differs", unit.commit, match="The first copy stays")
    assert (tmp_path / "s" / "commits" / "00000000.parquet").read_bytes() == before
