import json
import pickle

import numpy as np
import pytest
import torch

from logitstore.build import run_units
from logitstore.build.append import append_store
from logitstore.build.thin import thin_store
from logitstore.cli.main import run as run_command
from logitstore.errors import StoreError
from logitstore.loader import LogitDataset
from logitstore.samplers import RandomSampling, Threshold
from logitstore.store import create_store, export_store, open_store, store_statistics, verify_store
from logitstore.teachers import ArrayTeacher
from tests.build.test_build import run as build
from tests.support.small_builds import fingerprint
from tests.support.tiny_models import make_tiny_teacher
from tests.support.toy_teachers import ByteTokenizer, rows_after, toy_teacher

SAMPLER = Threshold(20)


@pytest.fixture
def data(tmp_path):
    names = {"first": "the quick brown fox jumps over the lazy dog. " * 20, "second": "pack my box with jugs. " * 30}
    for name, text in names.items():
        (tmp_path / f"{name}.txt").write_text(text)
    return {name: tmp_path / f"{name}.txt" for name in names}


def append(path, data, **options):
    defaults = {"teacher": toy_teacher(), "tokenizer": ByteTokenizer(), "quiet": True}
    return append_store(path, data=[data], **defaults | options)


@pytest.fixture
def store(tmp_path, data):
    build(tmp_path / "s", data["first"], seed=4)
    return tmp_path / "s"


def contents(store):
    return [(s.index, s.tokens.tolist(), s.targets.ids.tolist(), s.targets.weights.tolist()) for s in store]


def test_what_is_appended_goes_on_where_the_store_ends(store, data):
    before = open_store(store)
    was = contents(before)
    after = append(store, data["second"])
    assert verify_store(store) == []
    assert len(after) > len(before) == len(was)
    assert contents(after)[: len(before)] == was
    assert contents(before) == was  # who had it open sees what was there
    body = [t for index in range(len(before), len(after)) for t in after[index].tokens.tolist()[1:]]
    assert body == [*ByteTokenizer().encode(data["second"].read_text()), 2]
    for sequence in after:
        logits = rows_after(sequence.tokens.long())
        logits[:, 260:] = -float("inf")
        wanted = SAMPLER(logits, seed=4, index=sequence.index)
        assert torch.equal(sequence.targets.ids, wanted.ids)
        assert torch.equal(sequence.targets.weights, wanted.weights)


def test_a_third_generation_and_everything_that_reads_a_store(store, data, tmp_path):
    append(store, data["second"])
    third = append(store, data["first"])
    assert len(third.generations) == 3
    assert verify_store(store) == []
    assert third.sequence_lengths.tolist() == [len(sequence.tokens) for sequence in third]
    statistics = store_statistics(store)
    assert statistics["sequences"] == len(third)
    assert statistics["tokens"] == int(third.sequence_lengths.sum())
    assert sum(statistics["bytes_per_position_split"].values()) == pytest.approx(statistics["bytes_per_position"])
    assert contents(pickle.loads(pickle.dumps(third))) == contents(third)
    dataset = LogitDataset(store, shuffle=True, seed=1)
    assert sorted(sample.sequence_id for sample in dataset) == list(range(len(third)))
    export_store(store, tmp_path / "lists", format="parquet")
    thin = thin_store(store, tmp_path / "thin", draws=5, quiet=True)
    assert verify_store(tmp_path / "thin") == []
    assert [s.tokens.tolist() for s in thin] == [s.tokens.tolist() for s in third]
    assert thin.manifest["plan"]["sequences"] == len(third)
    assert len(thin.manifest["data"]) == 3
    # the same text drawn again has other random numbers
    first, again = third[0], third[len(third) - len(third.generations[2])]
    assert first.tokens.tolist() == again.tokens.tolist()
    assert first.targets.ids.tolist() != again.targets.ids.tolist()


def test_the_identity_of_a_store_changes_with_what_is_appended(store, data):
    before = open_store(store).manifest_sha256
    assert append(store, data["second"]).manifest_sha256 != before


def stop_after(monkeypatch, units):
    real, made = run_units.run_unit, []

    def stops(*arguments):
        if len(made) == units:
            raise KeyboardInterrupt
        made.append(real(*arguments))

    monkeypatch.setattr(run_units, "run_unit", stops)


def test_an_interrupted_append_shows_nothing_and_resumes_to_the_same_bytes(store, data, tmp_path, monkeypatch):
    build(tmp_path / "whole", data["first"], seed=4)
    append(tmp_path / "whole", data["second"])
    length = len(open_store(store))
    with monkeypatch.context() as patched:
        stop_after(patched, 0)
        with pytest.raises(KeyboardInterrupt):
            append(store, data["second"])
    assert len(open_store(store)) == length
    assert verify_store(store) == []
    with pytest.raises(StoreError) as caught:
        append(store, data["second"])
    assert caught.value.kind == "exists"
    with pytest.raises(StoreError) as caught:
        append(store, data["first"], resume=True)
    assert caught.value.kind == "settings-differ"
    append(store, data["second"], resume=True)
    parts = [fingerprint(path / "generations" / "0001") for path in (store, tmp_path / "whole")]
    assert parts[0] == parts[1]
    complete = len(open_store(store))
    append(store, data["second"], resume=True)  # a finished one is left as it is
    assert len(open_store(store)) == complete
    append(store, data["second"])
    assert len(open_store(store)) > complete


def refusal(function, *arguments, **options):
    with pytest.raises(StoreError) as caught:
        function(*arguments, **options)
    return caught.value


def test_another_teacher_or_tokenizer_is_refused_by_name(store, data):
    other = ArrayTeacher(lambda tokens: rows_after(tokens[0])[None], vocab_size=300, name="toy", context_length=999)
    error = refusal(append, store, data["second"], teacher=other)
    assert error.kind == "settings-differ"
    assert "teacher.context_length" in str(error)

    class Other(ByteTokenizer):
        sha256 = "other"

    assert "tokenizer_sha256" in str(refusal(append, store, data["second"], tokenizer=Other()))
    assert len(open_store(store).generations) == 1


def test_what_no_build_made_is_refused(tmp_path, store, data):
    targets = RandomSampling(4)(torch.zeros(3, 9))
    with create_store(tmp_path / "own", vocab_size=9, sampler=RandomSampling(4)) as writer:
        writer.append(np.arange(3), targets)
    assert refusal(append, tmp_path / "own", data["second"]).kind == "not-a-build"
    thin_store(store, tmp_path / "thin", draws=5, quiet=True)
    assert refusal(append, tmp_path / "thin", data["second"]).kind == "not-a-build"


def test_a_generation_of_another_store_is_refused(store, data, tmp_path):
    append(store, data["second"])
    build(tmp_path / "t", data["second"])
    append(tmp_path / "t", data["second"])
    (tmp_path / "t" / "generations" / "0001").rename(tmp_path / "stray")
    (tmp_path / "stray").rename(store / "generations" / "0002")
    error = refusal(open_store, store)
    assert error.kind == "alignment-mismatch"


def test_damage_of_a_generation_is_found_and_named(store, data):
    length = len(open_store(store))
    append(store, data["second"])
    shard = store / "generations" / "0001" / "sequences" / "c" / "0"
    content = bytearray(shard.read_bytes())
    content[30] ^= 1
    shard.write_bytes(content)
    (store / "generations" / "0001" / "stray").write_text("x")
    found = {(finding.kind, finding.where) for finding in verify_store(store)}
    assert ("checksum-mismatch", "generations/0001/sequences/c/0") in found
    assert ("orphan", "generations/0001/stray") in found
    assert any(where == f"sequence {length}" for _, where in found)


def test_the_command_appends_with_the_stores_own_teacher(tmp_path, capsys):
    make_tiny_teacher(tmp_path / "teacher")
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"ids": [(7 * i) % 200 for i in range(300)]}) + "\n")
    path = str(tmp_path / "s")
    options = ["--teacher", str(tmp_path / "teacher"), "--tokens-field", "ids", "--seq-len", "50", "--quiet"]
    assert run_command(["build", path, *options, "--data", str(tmp_path / "a.jsonl")]) == 0
    length = len(open_store(path))
    assert run_command(["append", path, "--data", str(tmp_path / "b.jsonl"), "--quiet"]) == 0
    assert len(open_store(path)) == 2 * length
    assert run_command(["verify", path]) == 0
    make_tiny_teacher(tmp_path / "other", seed=1)
    arguments = ["append", path, "--data", str(tmp_path / "b.jsonl"), "--teacher", str(tmp_path / "other")]
    assert run_command(arguments) == 2
    assert "teacher.weights_sha256" in capsys.readouterr().err
