import json
import tempfile
import time

import pytest
import torch

import logitstore
from logitstore.build import estimate as estimate_module
from logitstore.build.estimate import REFERENCE, SAMPLERS
from logitstore.errors import InvalidInput, TeacherError
from logitstore.samplers import RandomSampling, Threshold, TopK, sampler_from_dict, total_variance
from logitstore.store import store_statistics
from logitstore.teachers import ArrayTeacher
from tests.build.toy_estimate import VOCAB_SIZE, ByteTokenizer, CountingTeacher, rows_after, run
from tests.support.tiny_models import make_tiny_teacher


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary folders go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"line {number} of {number * number % 97};" for number in range(150)))
    return path


def row_of(found, sampler):
    (row,) = [row for row in found.samplers if row.sampler == sampler.to_dict()]
    return row


def test_every_sampler_and_budget_has_its_row(text):
    found = run(text, positions=200)
    assert [sampler_from_dict(row.sampler) for row in found.samplers] == list(SAMPLERS)
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


@pytest.mark.parametrize("sampler", [Threshold(16), RandomSampling(50), TopK(25)])
def test_a_probe_of_everything_tells_what_the_store_has(tmp_path, text, sampler):
    options = {"seed": 3, "teacher_temperature": 1.5, "seq_len": 64}
    row = row_of(run(text, positions=10**9, **options), sampler)
    logitstore.build(
        tmp_path / "s",
        teacher=CountingTeacher(),
        tokenizer=ByteTokenizer(),
        data=[text],
        sampler=sampler,
        quiet=True,
        **options,
    )
    built = store_statistics(tmp_path / "s")
    assert row.entries_per_position == pytest.approx(built["entries_per_position"], rel=1e-12)
    for part in ("entries", "tokens"):
        # the build's frequency table is fitted to an eighth of the corpus, the estimate's to halves and to all of it
        assert row.bytes_per_position_split[part] == pytest.approx(built["bytes_per_position_split"][part], rel=0.05)
    # what is left out is what a store has once: manifests, Zarr metadata, the index file's own frame
    assert 0 < built["bytes_total"] - row.total_bytes < 20_000


def test_tokens_and_sequences_are_those_of_the_build(tmp_path, text):
    for options in ({}, {"pack": False}, {"bos": False}, {"limit_tokens": 500}):
        found = run(text, **options)
        store = logitstore.build(
            tmp_path / repr(options),
            teacher=CountingTeacher(),
            tokenizer=ByteTokenizer(),
            data=[text],
            seq_len=64,
            quiet=True,
            **options,
        )
        assert found.counted
        assert (found.corpus_sequences, found.corpus_tokens) == (len(store), int(store.sequence_lengths.sum()))


def test_the_teacher_runs_once_over_each_probed_sequence_and_they_are_evenly_spread(tmp_path, text):
    store = logitstore.build(
        tmp_path / "s", teacher=CountingTeacher(), tokenizer=ByteTokenizer(), data=[text], seq_len=64, quiet=True
    )
    teacher = CountingTeacher()
    found = run(text, positions=4 * 64, teacher=teacher)
    assert (found.probed_sequences, found.probed_positions) == (4, 256)
    assert len(teacher.seen[0]) < 10
    step = len(store) / 4
    wanted = [store[int((run + 0.5) * step)].tokens.long() for run in range(4)]
    assert len(teacher.probed) == 4
    assert all(torch.equal(seen, tokens) for seen, tokens in zip(teacher.probed, wanted, strict=True))


def test_variance_and_kept_mass_are_those_of_the_logits(text):
    teacher = CountingTeacher()
    found = run(text, positions=300, teacher=teacher, teacher_temperature=1.25)
    logits = rows_after(torch.cat(teacher.probed))
    logits[:, ByteTokenizer.size :] = -float("inf")
    logits = logits / 1.25
    reference = float(total_variance(REFERENCE, logits).mean())
    for row, sampler in zip(found.samplers, SAMPLERS, strict=True):
        if sampler.unbiased:
            assert row.kept_mass is None
            wanted = float(total_variance(sampler, logits).mean()) / reference
            assert row.relative_variance == pytest.approx(wanted, rel=1e-9)
        else:
            assert row.relative_variance is None
    assert row_of(found, REFERENCE).relative_variance == 1
    top = logits.softmax(dim=1).topk(50, dim=1).values.sum(dim=1).mean()
    assert row_of(found, TopK(50)).kept_mass == pytest.approx(float(top), rel=1e-5)


def test_the_recommended_draws_are_the_fewest_with_the_variance_of_the_reference(text):
    teacher = CountingTeacher()
    found = run(text, positions=300, teacher=teacher)
    recommended = sampler_from_dict(found.recommended)
    assert isinstance(recommended, Threshold)
    logits = rows_after(torch.cat(teacher.probed))
    logits[:, ByteTokenizer.size :] = -float("inf")
    limit = float(total_variance(REFERENCE, logits).sum())
    # rounding of the head makes the curve a little wavy between two budgets
    assert float(total_variance(recommended, logits).sum()) <= 1.02 * limit
    assert float(total_variance(Threshold(recommended.draws - 2), logits).sum()) > limit
    assert f"--sampler threshold --draws {recommended.draws})" in found.recommendation
    assert "% of the store" in found.recommendation


def test_a_teacher_that_is_certain_needs_the_least(text):
    def certain(tokens, logits):
        return torch.where(torch.arange(VOCAB_SIZE) == 5, 0.0, -float("inf")).repeat(len(logits), 1)

    found = run(text, teacher=CountingTeacher(certain))
    assert all(row.relative_variance is None for row in found.samplers)
    assert found.recommended == Threshold(8).to_dict()
    assert "certain" in found.recommendation


def test_where_no_threshold_budget_suffices_the_published_method_is_recommended(text, monkeypatch):
    monkeypatch.setattr(estimate_module, "SAMPLERS", (Threshold(8), Threshold(9), REFERENCE))
    found = run(text)
    assert all(row.relative_variance > 1 for row in found.samplers[:2])
    assert found.recommended == REFERENCE.to_dict()
    assert "no threshold budget" in found.recommendation


def test_budgets_beyond_the_vocabulary_are_left_out(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"ids": [1, 2, 3] * 40}))
    teacher = ArrayTeacher(lambda tokens: torch.zeros(1, tokens.shape[1], 40), vocab_size=40, name="small")
    found = run(tmp_path / "a.jsonl", teacher=teacher, tokenizer=None, tokens_field="ids")
    assert [row.sampler["k"] for row in found.samplers if row.sampler["name"] == "top-k"] == [25]
    assert len(found.samplers) == len(SAMPLERS) - 2


def test_time_is_the_teachers_and_the_samplers(text):
    found = run(text, positions=10**9)
    teacher = 1 / found.teacher_positions_per_second
    assert found.teacher_hours == pytest.approx(teacher * found.corpus_tokens / 3600)
    for row in found.samplers:
        wanted = (teacher + row.sampler_seconds_per_position) * found.corpus_tokens / 3600
        assert row.sampler_seconds_per_position > 0
        assert row.hours >= wanted * (1 - 1e-9)


class SlowThreshold(Threshold):
    """Takes a fifth of a second a block."""

    def __call__(self, logits, **options):
        time.sleep(0.2)
        return super().__call__(logits, **options)


def test_teacher_and_sampler_are_timed_apart(text, monkeypatch):
    def slow(tokens, logits):
        time.sleep(0.02)
        return logits

    monkeypatch.setattr(estimate_module, "SAMPLERS", (SlowThreshold(8), Threshold(8), REFERENCE))
    found = run(text, positions=5 * 64, teacher=CountingTeacher(slow))
    assert 64 / 0.2 < found.teacher_positions_per_second <= 64 / 0.02
    seconds = [row.sampler_seconds_per_position * 64 for row in found.samplers]
    assert max(seconds[1:]) < 0.2 <= seconds[0]


def test_nothing_is_left_on_disk_after_success_failure_or_ctrl_c(tmp_path, text, temporary):
    def interrupted(tokens, logits):
        raise KeyboardInterrupt

    run(text)
    with pytest.raises(KeyboardInterrupt):
        run(text, teacher=CountingTeacher(interrupted))

    class Stopped(ByteTokenizer):
        def encode(self, text):
            assert len(list(temporary.iterdir())) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(text, tokenizer=Stopped())
    (tmp_path / "bad.jsonl").write_text("not json\n")
    with pytest.raises(InvalidInput, match=r"bad\.jsonl:1"):
        run(tmp_path / "bad.jsonl")
    assert list(temporary.iterdir()) == []


def test_bad_logits_name_the_sequence_of_the_corpus_and_the_position(text):
    calls = []

    def change(tokens, logits):
        calls.append(1)
        if len(calls) == 4:  # a warm-up, and two sequences before
            logits[10, 5] = float("nan")
        return logits

    num_sequences = run(text).corpus_sequences
    third = int(2.5 * num_sequences / 4)
    with pytest.raises(TeacherError, match=f"sequence {third}: the teacher's logits at position 10") as caught:
        run(text, positions=256, teacher=CountingTeacher(change))
    assert (caught.value.kind, caught.value.exit_code) == ("bad-logits", 1)


@pytest.mark.parametrize(
    "options", [{"positions": 0}, {"batch_size": 0}, {"seed": -1}, {"teacher_temperature": 0.0}, {"seq_len": 1}]
)
def test_options_out_of_range_are_refused(text, options):
    with pytest.raises(InvalidInput):
        run(text, **options)


def test_a_seq_len_beyond_the_context_is_refused(text):
    with pytest.raises(TeacherError, match="64") as caught:
        run(text, teacher=CountingTeacher(context_length=50))
    assert (caught.value.kind, caught.value.exit_code) == ("context-too-short", 2)


def test_logits_exist_a_block_at_a_time(tmp_path, text, monkeypatch):
    pytest.importorskip("transformers")
    from logitstore.build import teacher_source
    from logitstore.teachers import load_teacher

    make_tiny_teacher(tmp_path / "teacher")
    rows = []

    def loaded(*arguments, **options):
        teacher = load_teacher(*arguments, **options, max_logits_bytes=20 * 320 * 4)
        real = teacher.logit_blocks

        def blocks(tokens):
            for number, first, logits in real(tokens):
                rows.append(len(logits))
                yield number, first, logits

        teacher.logit_blocks = blocks
        return teacher

    whole = run(text, teacher=tmp_path / "teacher", tokenizer=None, positions=200)
    monkeypatch.setattr(teacher_source, "load_teacher", loaded)
    found = run(text, teacher=tmp_path / "teacher", tokenizer=None, positions=200)
    assert max(rows) == 20
    assert found.probed_positions == sum(rows) - 8  # a warm-up
    for one, other in zip(found.samplers, whole.samplers, strict=True):
        assert one.entries_per_position == pytest.approx(other.entries_per_position, rel=0.01)
        for value, wanted in ((one.relative_variance, other.relative_variance), (one.kept_mass, other.kept_mass)):
            assert (value is None) == (wanted is None)
            assert value is None or value == pytest.approx(wanted, rel=1e-3)
