import json

import numpy as np
import pytest
import torch

from logitstore.build import derive
from logitstore.build import thin as room
from logitstore.build.thin import thin_store
from logitstore.errors import InvalidInput, StoreError
from logitstore.samplers import RandomSampling, Threshold, TopK, TopP, thin
from logitstore.store import create_store, open_store, store_statistics, verify_store
from logitstore.targets import SparseTargets
from tests.support.stores import make_store, random_targets

SAMPLERS = [Threshold(20), RandomSampling(20)]
PROVENANCE = {"eod_id": 3, "teacher": {"name": "toy", "id": "here"}, "data": [{"name": "a", "bytes": 1}]}
LENGTHS = [9, 30, 1, 12, 5, 8, 40]


def make_seeded_store(path, *, sampler, seed, **provenance):
    """Write a sealed store that records the seed of its draws."""
    options = {"vocab_size": 50, "sampler": sampler, "sequences_per_shard": 4, "seed": seed}
    with create_store(path, **options, **provenance) as writer:
        for tokens, targets in zip(*random_targets(LENGTHS, sampler=sampler, seed=seed), strict=True):
            writer.append(tokens, targets)


def files_of(path):
    names = [*sorted(path.rglob("sequences/c/*")), path / "index.parquet", path / "zarr.json"]
    return {name.relative_to(path).as_posix(): name.read_bytes() for name in names}


def masked(targets, position):
    """Return targets whose position has no entries, and a statistic of every position."""
    keep = targets.rows != position
    counts = targets.counts.clone()
    counts[position] = 0
    head_counts = None if targets.head_counts is None else targets.head_counts.clone()
    if head_counts is not None:
        head_counts[position] = 0
    return SparseTargets(
        torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        targets.ids[keep],
        targets.weights[keep],
        head_counts,
        teacher_entropy=torch.arange(targets.num_positions) / 8,
    )


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
def test_a_thinned_store_holds_the_thinned_targets_of_each_sequence(tmp_path, sampler):
    make_seeded_store(tmp_path / "s", sampler=sampler, seed=7)
    store = thin_store(tmp_path / "s", tmp_path / "t", draws=6, quiet=True)
    assert verify_store(tmp_path / "t") == []
    assert store_statistics(tmp_path / "t")["entries"] < store_statistics(tmp_path / "s")["entries"]
    for before, after in zip(open_store(tmp_path / "s"), store, strict=True):
        wanted = thin(before.targets, 6, sampler=sampler, seed=7, index=before.index)
        assert torch.equal(after.tokens, before.tokens)
        assert torch.equal(after.targets.offsets, wanted.offsets)
        assert torch.equal(after.targets.ids, wanted.ids)
        assert torch.equal(after.targets.weights, wanted.weights)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
def test_document_starts_statistics_and_masked_positions_stay(tmp_path, sampler):
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))
    targets = masked(sampler(logits), 2)
    with create_store(tmp_path / "s", vocab_size=50, sampler=sampler) as writer:
        writer.append(np.arange(6), targets, document_starts=[1, 4])
    sequence = thin_store(tmp_path / "s", tmp_path / "t", draws=5, quiet=True)[0]
    assert sequence.document_starts.tolist() == [1, 4]
    assert torch.equal(sequence.targets.teacher_entropy, torch.arange(6) / 8)
    assert sequence.targets.counts[2] == 0
    assert (sequence.targets.counts > 0).sum() == 5


def test_the_manifest_keeps_where_the_store_came_from_and_says_how_it_was_thinned(tmp_path):
    make_seeded_store(tmp_path / "s", sampler=Threshold(20), seed=7, **PROVENANCE)
    thin_store(tmp_path / "s", tmp_path / "t", draws=9, quiet=True)
    store = thin_store(tmp_path / "t", tmp_path / "u", draws=4, seed=11, quiet=True)
    first, second = open_store(tmp_path / "s"), open_store(tmp_path / "t")
    assert store.manifest["sampler"] == Threshold(4, grid=Threshold(20).grid).to_dict()
    assert store.manifest["thinned_from"] == [
        {"draws": 20, "manifest_sha256": first.manifest_sha256, "seed": 7},
        {"draws": 9, "manifest_sha256": second.manifest_sha256, "seed": 11},
    ]
    assert set(store.manifest) == {*first.manifest, "thinned_from"}
    own = {"created", "versions", "sampler", "sealed"}
    for name in first.manifest.keys() - own:
        assert store.manifest[name] == first.manifest[name], name


def test_a_store_without_a_seed_is_thinned_with_seed_0(tmp_path):
    make_store(tmp_path / "s", lengths=LENGTHS)
    thin_store(tmp_path / "s", tmp_path / "t", draws=4, quiet=True)
    thin_store(tmp_path / "s", tmp_path / "u", draws=4, seed=0, quiet=True)
    thin_store(tmp_path / "s", tmp_path / "v", draws=4, seed=1, quiet=True)
    assert files_of(tmp_path / "t") == files_of(tmp_path / "u") != files_of(tmp_path / "v")


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
def test_long_sequences_are_thinned_in_blocks_to_the_same_bytes(tmp_path, sampler, monkeypatch):
    make_store(tmp_path / "s", lengths=LENGTHS, sampler=sampler)
    thin_store(tmp_path / "s", tmp_path / "t", draws=5, quiet=True)
    monkeypatch.setattr(room, "_BLOCK_UNIFORMS", 7 * sampler.draws)
    thin_store(tmp_path / "s", tmp_path / "u", draws=5, quiet=True)
    assert files_of(tmp_path / "t") == files_of(tmp_path / "u")


class StopError(Exception):
    pass


@pytest.mark.parametrize("stop_at", ["sequence", "seal"])
def test_an_interrupted_thinning_resumes_to_the_same_bytes(tmp_path, monkeypatch, stop_at):
    make_store(tmp_path / "s", lengths=LENGTHS, sampler=Threshold(20), sequences_per_shard=2)
    thin_store(tmp_path / "s", tmp_path / "whole", draws=5, quiet=True)
    with monkeypatch.context() as patched:
        real, seen = room.thin, []

        def stops(*arguments, **options):
            seen.append(options["index"])
            if seen.count(5) == 2:  # after the pilot
                raise StopError
            return real(*arguments, **options)

        def stops_at_seal(*arguments):
            raise StopError

        target = (room, "thin", stops) if stop_at == "sequence" else (derive, "seal_store", stops_at_seal)
        patched.setattr(*target)
        with pytest.raises(StopError):
            thin_store(tmp_path / "s", tmp_path / "t", draws=5, quiet=True)
    assert len(list((tmp_path / "t" / "commits").iterdir())) == (2 if stop_at == "sequence" else 4)
    with pytest.raises(StoreError) as caught:
        open_store(tmp_path / "t")
    assert caught.value.kind == "not-sealed"
    thin_store(tmp_path / "s", tmp_path / "t", draws=5, resume=True, quiet=True)
    assert files_of(tmp_path / "t") == files_of(tmp_path / "whole")
    assert verify_store(tmp_path / "t") == []


def test_resume_builds_what_is_absent_leaves_what_is_complete_and_names_what_differs(tmp_path, capsys):
    make_seeded_store(tmp_path / "s", sampler=Threshold(20), seed=0)
    make_seeded_store(tmp_path / "other", sampler=Threshold(20), seed=0, bos_id=1)
    thin_store(tmp_path / "s", tmp_path / "t", draws=5, resume=True, quiet=True)
    before = files_of(tmp_path / "t")
    thin_store(tmp_path / "s", tmp_path / "t", draws=5, resume=True)
    assert f"{tmp_path / 't'} is complete." in capsys.readouterr().err
    assert files_of(tmp_path / "t") == before
    for source, options, name in [
        ("s", {"draws": 4}, "sampler.draws: the store has 5, asked for was 4"),
        ("s", {"draws": 5, "seed": 3}, "thinned_from.0.seed: the store has 0, asked for was 3"),
        ("other", {"draws": 5}, "thinned_from.0.manifest_sha256"),
    ]:
        with pytest.raises(StoreError) as caught:
            thin_store(tmp_path / source, tmp_path / "t", resume=True, quiet=True, **options)
        assert caught.value.kind == "settings-differ"
        assert name in str(caught.value)


@pytest.mark.parametrize("is_pilot", [False, True])
def test_a_damaged_source_is_reported_and_leaves_the_new_store_unsealed(tmp_path, monkeypatch, is_pilot):
    monkeypatch.setattr(derive, "pilot_indexes", lambda *sizes, **share: [2] if is_pilot else [0])
    make_store(tmp_path / "s", lengths=[20] * 6, sampler=Threshold(20), sequences_per_shard=2)
    shard = tmp_path / "s" / "sequences" / "c" / "1"
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError) as caught:
        thin_store(tmp_path / "s", tmp_path / "t", draws=5, quiet=True)
    # whichever of its checks the blob fails first
    assert caught.value.kind in ("checksum-mismatch", "corrupt-blob")
    assert caught.value.exit_code == 1
    assert "sequence 2" in str(caught.value)
    with pytest.raises(StoreError) as caught:
        open_store(tmp_path / "t")
    assert caught.value.kind == ("not-a-store" if is_pilot else "not-sealed")


@pytest.mark.parametrize(
    ("sampler", "options", "message"),
    [
        (TopK(7), {"draws": 3}, "top-k cannot be thinned"),
        (TopP(0.5), {"draws": 3}, "top-p cannot be thinned"),
        (RandomSampling(9, 0.8), {"draws": 3}, "only proposal_power 1 can be thinned"),
        (Threshold(9), {"draws": 9}, "draws is 9; fewer than the 9 there are"),
        (Threshold(9), {"draws": 0}, "draws is 0"),
        (Threshold(9), {"draws": 3, "seed": -1}, "seed is -1"),
        (Threshold(9), {"draws": 3, "seed": 1 << 64}, "from 0 to 2\\^64 - 1"),
        (Threshold(9), {"draws": 3, "seed": 1.5}, "seed is 1.5; a whole number"),
    ],
)
def test_what_cannot_be_thinned_is_refused_and_nothing_is_made(tmp_path, sampler, options, message):
    make_store(tmp_path / "s", lengths=[5, 3], sampler=sampler)
    with pytest.raises(InvalidInput, match=message) as caught:
        thin_store(tmp_path / "s", tmp_path / "t", quiet=True, **options)
    assert caught.value.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_seed_in_the_manifest_that_is_no_number_is_refused(tmp_path):
    tokens, targets = [1, 2], Threshold(9)(torch.zeros(2, 50))
    with create_store(tmp_path / "s", vocab_size=50, sampler=Threshold(9), seed="seven") as writer:
        writer.append(tokens, targets)
    with pytest.raises(InvalidInput, match="is 'seven'; a whole number was wanted"):
        thin_store(tmp_path / "s", tmp_path / "t", draws=3, quiet=True)
    assert len(thin_store(tmp_path / "s", tmp_path / "t", draws=3, seed=7, quiet=True)) == 1


def test_a_place_that_is_taken_or_inside_of_the_store_is_refused(tmp_path):
    make_store(tmp_path / "s", lengths=[5, 3], sampler=Threshold(9))
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "file").write_text("mine")
    for out, kind in [("t", "exists"), ("s", "exists"), ("s/t", "invalid-input")]:
        with pytest.raises((StoreError, InvalidInput)) as caught:
            thin_store(tmp_path / "s", tmp_path / out, draws=3, quiet=True)
        assert (caught.value.kind, caught.value.exit_code) == (kind, 2)
    assert verify_store(tmp_path / "s") == []
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["file"]


VOCAB_SIZE = 30
ZIPF = 1 / torch.arange(1, VOCAB_SIZE + 1, dtype=torch.float64)
ZIPF = ZIPF / ZIPF.sum()
NUM_SEQUENCES, LENGTH = 40, 500


def z_scores(parts):
    """Return how far the mean weight of each token is from its probability, in standard errors, [V]."""
    dense = torch.cat([part.to_dense(VOCAB_SIZE) for part in parts]).double()
    return (dense.mean(dim=0) - ZIPF) / (dense.std(dim=0) / len(dense) ** 0.5)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
def test_a_store_thinned_twice_is_unbiased_as_each_time_has_random_numbers_of_its_own(tmp_path, sampler):
    # 20,000 positions; 2 x 30 tokens, |z| < 4.5: a false alarm has chance 4e-4. The seed is fixed.
    logits = ZIPF.log().float().expand(LENGTH, VOCAB_SIZE)
    options = {"vocab_size": VOCAB_SIZE, "sampler": sampler, "seed": 5}
    with create_store(tmp_path / "s", **options) as writer:
        for index in range(NUM_SEQUENCES):
            writer.append(np.zeros(LENGTH, dtype=np.int32), sampler(logits, seed=5, index=index))
    thin_store(tmp_path / "s", tmp_path / "t", draws=10, quiet=True)
    thin_store(tmp_path / "t", tmp_path / "u", draws=5, quiet=True)
    assert z_scores([sequence.targets for sequence in open_store(tmp_path / "u")]).abs().max() < 4.5

    def thinned_again(sequence):
        ten = type(sampler)(10)
        return thin(sequence.targets, 5, sampler=ten, seed=5, index=sequence.index, generation=0)

    # the control: the second thinning with the random numbers of the first
    assert z_scores([thinned_again(sequence) for sequence in open_store(tmp_path / "t")]).abs().max() > 10


def test_the_seal_of_a_thinned_store_is_its_own(tmp_path):
    make_store(tmp_path / "s", lengths=LENGTHS, sampler=Threshold(20))
    store = thin_store(tmp_path / "s", tmp_path / "t", draws=5, quiet=True)
    sealed = json.loads((tmp_path / "t" / "sealed.json").read_text())
    assert sealed["totals"]["entries"] == sum(sequence.targets.num_entries for sequence in store)
    assert {path.name for path in (tmp_path / "t").iterdir()} == {path.name for path in (tmp_path / "s").iterdir()}
