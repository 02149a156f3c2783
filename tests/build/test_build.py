import itertools
import json
import shutil

import numpy as np
import pytest
import torch

import logitstore
from logitstore.build.plan import make_plan
from logitstore.errors import InvalidInput, StoreError, TeacherError
from logitstore.samplers import RandomSampling, Threshold, TopK, TopP
from logitstore.store import open_store, verify_store
from tests.support.toy_teachers import VOCAB_SIZE, ByteTokenizer, rows_after, toy_teacher

#: the text makes 22 sequences; 3 of them, after a few tokens to warm up, are the pilot
PILOT = [3, 11, 18]
PILOT_CALLS = 1 + len(PILOT)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 30)
    return path


def run(path, text, **options):
    defaults = {"teacher": toy_teacher(), "tokenizer": ByteTokenizer(), "seq_len": 64, "quiet": True}
    return logitstore.build(path, data=[text], **defaults | options)


@pytest.mark.parametrize("sampler", [Threshold(20), RandomSampling(20), TopK(20), TopP(0.9)])
def test_a_store_holds_what_the_teacher_says_of_its_tokens(tmp_path, text, sampler):
    store = run(tmp_path / "s", text, sampler=sampler, seed=4)
    assert verify_store(tmp_path / "s") == []
    for sequence in store:
        logits = rows_after(sequence.tokens.long())
        logits[:, 260:] = -float("inf")
        wanted = sampler(logits, seed=4, index=sequence.index)
        assert torch.equal(sequence.targets.ids, wanted.ids)
        atol = 6e-3 if sampler.name in ("top-k", "top-p") else 0  # stored in 8 bits
        assert torch.allclose(sequence.targets.weights, wanted.weights, rtol=0, atol=atol)


def test_the_tokens_are_the_packed_text(tmp_path, text):
    store = run(tmp_path / "s", text)
    body = [token for sequence in store for token in sequence.tokens.tolist()[1:]]
    assert body == [*ByteTokenizer().encode(text.read_text()), 2]
    assert all(int(sequence.tokens[0]) == 1 for sequence in store)
    assert store[0].document_starts.tolist() == [1]
    assert (store.manifest["bos_id"], store.manifest["eod_id"]) == (1, 2)
    assert sum(len(sequence.tokens) for sequence in run(tmp_path / "l", text, limit_tokens=100)) == 100
    assert int(run(tmp_path / "n", text, bos=False)[0].tokens[0]) != 1


def test_columns_beyond_the_tokenizer_are_never_drawn(tmp_path, text):
    store = run(tmp_path / "s", text, sampler=RandomSampling(200))
    assert max(int(sequence.targets.ids.max()) for sequence in store) < ByteTokenizer.size
    assert store.manifest["vocab_size"] == VOCAB_SIZE
    assert store.manifest["tokenizer_size"] == ByteTokenizer.size


def test_teacher_temperature_is_applied_and_recorded(tmp_path, text):
    store = run(tmp_path / "s", text, sampler=TopK(5), teacher_temperature=2.0, limit_tokens=64, probability_bits=16)
    logits = rows_after(store[0].tokens.long())
    logits[:, 260:] = -float("inf")
    wanted = TopK(5)(logits / 2)
    assert torch.allclose(store[0].targets.weights, wanted.weights, rtol=2e-4)
    assert store.manifest["probability_bits"] == 16
    assert store[0].targets.teacher_temperature == 2.0


def bytes_of(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("sequences/c/*"))}


@pytest.fixture
def units_of_four(monkeypatch):
    from logitstore.build import local
    from logitstore.build.plan import Plan

    monkeypatch.setattr(local, "make_plan", lambda sequences, tokens: Plan(sequences, 4))


@pytest.mark.usefixtures("units_of_four")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_an_interrupted_build_resumes_to_the_same_bytes(tmp_path, text, error):
    calls = []

    def fails_late(logits):
        calls.append(len(logits))
        if len(calls) == PILOT_CALLS + 3 + 2:  # in the second unit, after the three of the first that were still to run
            raise error
        return logits

    with pytest.raises(type(error)):
        run(tmp_path / "s", text, teacher=toy_teacher(fails_late))
    with pytest.raises(StoreError, match="unfinished"):
        open_store(tmp_path / "s")
    assert len(list((tmp_path / "s" / "commits").iterdir())) == 1
    assert list((tmp_path / "s" / "attempts").iterdir()) == []
    with pytest.raises(StoreError, match="exists"):
        run(tmp_path / "s", text)
    calls.clear()
    run(tmp_path / "s", text, resume=True, teacher=toy_teacher(lambda logits: (calls.append(1), logits)[1]))
    run(tmp_path / "whole", text, resume=True)
    assert bytes_of(tmp_path / "s") == bytes_of(tmp_path / "whole")
    assert len(calls) == len(open_store(tmp_path / "s")) - 4 - len(PILOT[1:])


@pytest.mark.usefixtures("units_of_four")
def test_a_shard_without_a_commit_record_is_taken_over(tmp_path, text, monkeypatch):
    from logitstore.store.storage import LocalStorage

    run(tmp_path / "whole", text)
    real = LocalStorage.create

    def no_record(self, name, content):
        if name.startswith("commits"):
            raise KeyboardInterrupt
        return real(self, name, content)

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "create", no_record)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "s", text)
    assert (tmp_path / "s" / "sequences" / "c" / "0").exists()
    run(tmp_path / "s", text, resume=True)
    assert bytes_of(tmp_path / "s") == bytes_of(tmp_path / "whole")


def test_the_pilot_is_spread_over_the_corpus_and_runs_once(tmp_path, text, monkeypatch):
    from logitstore.build import pilot

    seen, fitted = [], []
    real = pilot.fit_table
    monkeypatch.setattr(pilot, "fit_table", lambda arrays, manifest: (fitted.extend(arrays), real(arrays, manifest))[1])
    store = run(tmp_path / "s", text, teacher=toy_teacher(lambda logits: (seen.append(len(logits)), logits)[1]))
    assert len(seen) == 1 + len(store)
    assert [arrays.tokens.tolist() for arrays in fitted] == [store[index].tokens.tolist() for index in PILOT]
    assert pilot.pilot_indexes(100_000, 100_000 * 1024)[:2] == [1562, 4687]
    assert len(pilot.pilot_indexes(100_000, 100_000 * 1024)) == 32
    assert pilot.pilot_indexes(1, 5) == [0]


def test_a_table_stays_whatever_a_resumed_build_would_fit(tmp_path, text, monkeypatch):
    from logitstore.build import local, run_units

    def stops(*arguments):
        raise KeyboardInterrupt

    run(tmp_path / "whole", text)
    with monkeypatch.context() as patched:
        patched.setattr(run_units, "run_unit", stops)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "s", text)
    table = (tmp_path / "s" / "frequencies.bin").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(local, "run_pilot", None)  # is not asked for again
        run(tmp_path / "s", text, resume=True)
    assert (tmp_path / "s" / "frequencies.bin").read_bytes() == table
    assert bytes_of(tmp_path / "s") == bytes_of(tmp_path / "whole")


def test_a_complete_store_is_left_as_it_is(tmp_path, text):
    run(tmp_path / "s", text)
    before = bytes_of(tmp_path / "s")
    run(tmp_path / "s", text, resume=True)
    assert bytes_of(tmp_path / "s") == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 1}, "seed"),
        ({"sampler": TopK(3)}, "sampler.name"),
        ({"seq_len": 32}, "packing.seq_len"),
        ({"teacher_temperature": 1.5}, "teacher_temperature"),
        ({"bos": False}, "bos_id"),
    ],
)
def test_other_settings_are_refused_on_resume_by_name(tmp_path, text, change, field):
    run(tmp_path / "s", text)
    with pytest.raises(StoreError, match=f"{field}: the store has") as caught:
        run(tmp_path / "s", text, resume=True, **change)
    assert (caught.value.kind, caught.value.exit_code) == ("settings-differ", 2)


def test_other_data_is_refused_on_resume(tmp_path, text):
    run(tmp_path / "s", text)
    text.write_text("other text")
    with pytest.raises(StoreError, match="sha256"):
        run(tmp_path / "s", text, resume=True)


def nothing_is_left(tmp_path, names=("text.txt",)):
    return sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_logits_name_sequence_and_position(tmp_path, text, value):
    calls = []

    def change(logits):
        calls.append(1)
        if len(calls) == PILOT_CALLS + 3:  # in the third sequence
            logits[10, 5] = value
        return logits

    with pytest.raises(TeacherError, match="sequence 2: the teacher's logits at position 10") as caught:
        run(tmp_path / "s", text, teacher=toy_teacher(change))
    assert (caught.value.kind, caught.value.exit_code) == ("bad-logits", 1)


def test_bad_data_leaves_nothing_behind(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\nnot json\n')
    with pytest.raises(InvalidInput, match=r"a\.jsonl:2"):
        run(tmp_path / "s", tmp_path / "a.jsonl")
    assert nothing_is_left(tmp_path, ["a.jsonl"])


def test_token_ids_from_a_column_need_no_tokenizer(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"ids": list(range(100))}) + "\n")
    store = run(tmp_path / "s", tmp_path / "a.jsonl", tokens_field="ids", tokenizer=None)
    assert torch.cat([sequence.tokens for sequence in store]).tolist() == list(range(100))
    (tmp_path / "b.jsonl").write_text(json.dumps({"ids": [1, VOCAB_SIZE]}) + "\n")
    with pytest.raises(InvalidInput, match="300") as caught:
        run(tmp_path / "t", tmp_path / "b.jsonl", tokens_field="ids", tokenizer=None)
    assert caught.value.kind == "token-out-of-range"


def test_a_seq_len_beyond_the_context_is_refused(tmp_path, text):
    with pytest.raises(TeacherError, match="64") as caught:
        run(tmp_path / "s", text, teacher=toy_teacher(context_length=50))
    assert (caught.value.kind, caught.value.exit_code) == ("context-too-short", 2)
    assert nothing_is_left(tmp_path)


def test_a_disk_too_small_is_refused_before_the_start(tmp_path, text, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(StoreError, match=r"needs about .* and .* has 1 kB free") as caught:
        run(tmp_path / "s", text)
    assert (caught.value.kind, caught.value.exit_code) == ("disk-too-small", 2)
    assert nothing_is_left(tmp_path)


@pytest.mark.usefixtures("units_of_four")
def test_a_writer_error_stops_the_build_with_that_error(tmp_path, text, monkeypatch):
    from logitstore import codec

    real, calls = codec.encode, []

    def fails(arrays, table):
        calls.append(1)
        if len(calls) > len(PILOT) + 5:
            raise OSError(28, "No space left on device")
        return real(arrays, table)

    monkeypatch.setattr(codec, "encode", fails)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "s", text)
    monkeypatch.setattr(codec, "encode", real)
    run(tmp_path / "s", text, resume=True)
    assert verify_store(tmp_path / "s") == []


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"seed": -1}, {"teacher_temperature": 0.0}, {"seq_len": 1}, {"probability_bits": 7}]
)
def test_options_out_of_range_are_refused(tmp_path, text, options):
    with pytest.raises(InvalidInput):
        run(tmp_path / "s", text, **options)
    assert nothing_is_left(tmp_path)


def test_the_plan_covers_every_sequence_once():
    for sequences, tokens in [(1, 1), (36, 9216), (100, 1_000_000), (10**6, 10**9), (5, 10**9)]:
        plan = make_plan(sequences, tokens)
        bounds = [plan.bounds(unit) for unit in range(plan.num_units)]
        assert bounds[0][0] == 0
        assert bounds[-1][1] == sequences
        assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
        assert all(start < stop for start, stop in bounds)


def test_batch_size_changes_no_byte(tmp_path, text):
    run(tmp_path / "a", text, batch_size=1)
    run(tmp_path / "b", text, batch_size=5)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    assert np.array_equal(open_store(tmp_path / "a").sequence_lengths, open_store(tmp_path / "b").sequence_lengths)
