import numpy as np
import pytest

from logitstore.build import derive
from logitstore.build.append import append_store
from logitstore.build.merge import merge_stores
from logitstore.build.thin import thin_store
from logitstore.cli.main import run as run_command
from logitstore.errors import InvalidInput, StoreError
from logitstore.samplers import RandomSampling, Threshold, TopK, TopP
from logitstore.store import open_store, verify_store
from tests.build.test_build import run as build
from tests.support.small_builds import fingerprint
from tests.support.stores import make_store
from tests.support.toy_teachers import ByteTokenizer, toy_teacher

SAMPLERS = [Threshold(20), RandomSampling(9), RandomSampling(9, 0.8), TopK(7), TopP(0.8)]


def contents(store):
    fields = ("ids", "weights", "head_counts", "teacher_entropy")
    return [
        [s.tokens.tolist(), s.document_starts.tolist(), s.targets.offsets.tolist()]
        + [None if (v := getattr(s.targets, name)) is None else v.numpy().tobytes() for name in fields]
        for s in store
    ]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_a_merged_store_holds_what_the_stores_held_to_the_last_bit(tmp_path, sampler):
    for name, lengths in {"a": [20, 1, 30], "b": [40, 7], "c": [5] * 9}.items():
        make_store(tmp_path / name, lengths=lengths, sampler=sampler, seed=len(lengths), sequences_per_shard=2)
    merged = merge_stores([tmp_path / "b", tmp_path / "a", tmp_path / "c"], tmp_path / "out", quiet=True)
    assert verify_store(tmp_path / "out") == []
    stores = [open_store(tmp_path / name) for name in "bac"]
    assert contents(merged) == [row for store in stores for row in contents(store)]
    assert [part["manifest_sha256"] for part in merged.manifest["merged_from"]] == [s.manifest_sha256 for s in stores]


def test_built_stores_of_different_data_merge_with_all_of_their_origin(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(f"the {name} of the quick brown fox. " * 30)
    build(tmp_path / "s", tmp_path / "a.txt")
    options = {"teacher": toy_teacher(), "tokenizer": ByteTokenizer(), "quiet": True}
    append_store(tmp_path / "s", data=[tmp_path / "b.txt"], **options)
    build(tmp_path / "t", tmp_path / "c.txt", limit_tokens=500, seed=9)
    merged = merge_stores([tmp_path / "s", tmp_path / "t"], tmp_path / "out", quiet=True)
    assert [file["name"] for file in merged.manifest["data"]] == [str(tmp_path / f"{name}.txt") for name in "abc"]
    assert merged.manifest["plan"]["sequences"] == len(merged)
    assert merged.manifest["seed"] is None
    assert [part["seed"] for part in merged.manifest["merged_from"]] == [0, 9]
    assert np.array_equal(merged.sequence_lengths, [len(sequence.tokens) for sequence in merged])
    # it may be thinned, with a seed of its own
    with pytest.raises(InvalidInput, match="--seed"):
        thin_store(tmp_path / "out", tmp_path / "thin", draws=5, quiet=True)
    thin_store(tmp_path / "out", tmp_path / "thin", draws=5, seed=1, quiet=True)
    assert verify_store(tmp_path / "thin") == []
    with pytest.raises(StoreError) as caught:
        append_store(tmp_path / "out", data=[tmp_path / "a.txt"], **options)
    assert caught.value.kind == "not-a-build"


@pytest.mark.parametrize("stop_at", ["unit", "seal_store"])
def test_an_interrupted_merge_resumes_to_the_same_bytes(tmp_path, monkeypatch, stop_at):
    for name, seed in (("a", 0), ("b", 1)):
        make_store(tmp_path / name, lengths=[20] * 5, sampler=Threshold(20), seed=seed, sequences_per_shard=2)
    paths = [tmp_path / "a", tmp_path / "b"]
    merge_stores(paths, tmp_path / "whole", quiet=True)
    real, made = derive.UnitWriter, []

    def stops(*arguments):
        if stop_at != "unit" or len(made) == 2:
            raise KeyboardInterrupt
        made.append(arguments)
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(derive, "UnitWriter" if stop_at == "unit" else "seal_store", stops)
        with pytest.raises(KeyboardInterrupt):
            merge_stores(paths, tmp_path / "out", quiet=True)
    with pytest.raises(StoreError, match="unfinished"):
        open_store(tmp_path / "out")
    merge_stores(paths, tmp_path / "out", resume=True, quiet=True)
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "whole")
    merge_stores(paths, tmp_path / "out", resume=True, quiet=True)  # a finished one is left as it is
    with pytest.raises(StoreError) as caught:
        merge_stores(paths[::-1], tmp_path / "out", resume=True, quiet=True)
    assert caught.value.kind == "settings-differ"


def test_stores_that_do_not_belong_together_are_refused_by_name(tmp_path):
    make_store(tmp_path / "a", lengths=[5, 6], sampler=Threshold(20))
    make_store(tmp_path / "b", lengths=[7], sampler=Threshold(12))
    make_store(tmp_path / "c", lengths=[7], sampler=Threshold(20), vocab_size=60)
    for name, field in (("b", "sampler.draws"), ("c", "vocab_size")):
        with pytest.raises(StoreError, match=f"{field}: the store has") as caught:
            merge_stores([tmp_path / "a", tmp_path / name], tmp_path / "out", quiet=True)
        assert caught.value.kind == "settings-differ"
    with pytest.raises(InvalidInput, match="twice"):
        merge_stores([tmp_path / "a", tmp_path / "a"], tmp_path / "out", quiet=True)
    with pytest.raises(InvalidInput, match="two stores"):
        merge_stores([tmp_path / "a"], tmp_path / "out", quiet=True)
    make_store(tmp_path / "d", lengths=[9], sampler=Threshold(20), seed=3)
    with pytest.raises(InvalidInput, match="inside"):
        merge_stores([tmp_path / "a", tmp_path / "d"], tmp_path / "a" / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_the_command_merges(tmp_path, capsys):
    make_store(tmp_path / "a", lengths=[5, 6])
    make_store(tmp_path / "b", lengths=[7], seed=1)
    stores = ["--store", str(tmp_path / "a"), "--store", str(tmp_path / "b")]
    assert run_command(["merge", str(tmp_path / "out"), *stores, "--quiet"]) == 0
    assert len(open_store(tmp_path / "out")) == 3
    assert run_command(["merge", str(tmp_path / "out"), *stores]) == 2
    assert "exists" in capsys.readouterr().err
