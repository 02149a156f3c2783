"""The two students: equal at first, both learn, and the soft targets bring the one nearer to the teacher."""

from __future__ import annotations

import itertools

import pytest
import torch

from logitstore.demo.comparison import LOSSES, HeldOut, TrainingBatch, TrainingPlan, compare_losses, evaluate
from logitstore.demo.held_out import measure_teacher, split_sequences
from logitstore.demo.student import Student, StudentShape
from logitstore.demo.vocabulary import CompactVocabulary
from logitstore.errors import InvalidInput
from logitstore.targets import concatenate_targets
from tests.demo.toy_store import SEQ_LEN, VOCAB_SIZE, ToyTeacher, shifted, teacher_probabilities, toy_store

STEPS = 80


@pytest.fixture(scope="module")
def toy():
    """A toy store's held-out sequences, one training batch, and the shape of a student."""
    store = toy_store(40)
    train, held_out_indices = split_sequences(len(store))
    vocabulary = CompactVocabulary.from_store(store, entries_of=held_out_indices)
    tokens = [torch.as_tensor(sequence.tokens).long() for sequence in store]
    held_out = measure_teacher(
        ToyTeacher(),
        [(store[i].tokens, shifted(tokens[i])) for i in held_out_indices],
        vocabulary,
        vocab_size=VOCAB_SIZE,
    )
    batch = TrainingBatch(
        vocabulary.map_ids(torch.stack([tokens[i] for i in train])),
        vocabulary.map_labels(torch.stack([shifted(tokens[i]) for i in train])),
        vocabulary.map_targets(concatenate_targets([store[i].targets for i in train])),
    )
    return held_out, batch, StudentShape(vocabulary.size, SEQ_LEN, width=32, layers=1, heads=2)


@pytest.fixture(scope="module")
def curves(toy):
    held_out, batch, shape = toy
    return compare_losses(itertools.repeat(batch), held_out, shape, TrainingPlan(STEPS, learning_rate=1e-2))


@pytest.mark.parametrize("num_sequences", [5, 36, 37])
def test_split_is_disjoint_complete_and_one_in_five(num_sequences):
    train, held_out = split_sequences(num_sequences)
    assert sorted(train + held_out) == list(range(num_sequences))
    assert len(held_out) == num_sequences // 5


def test_too_few_sequences_to_hold_one_out_are_refused():
    with pytest.raises(InvalidInput, match="4 sequences"):
        split_sequences(4)


def test_held_out_rows_are_the_teachers_distributions_without_padded_columns(toy):
    held_out, _, _ = toy
    rows = torch.cat(held_out.teacher)
    torch.testing.assert_close(rows.sum(1), torch.ones(len(rows)), atol=1e-5, rtol=0)


def test_teachers_own_loss_is_the_mean_negative_log_of_its_probabilities(toy):
    held_out, _, _ = toy
    store = toy_store(40)
    table = teacher_probabilities()
    losses = [-table[s.tokens[:-1], s.tokens[1:]].log() for s in (store[i] for i in split_sequences(40)[1])]
    # float32 rows against float64
    assert held_out.teacher_loss() == pytest.approx(float(torch.cat(losses).mean()), abs=1e-5)


def test_both_students_begin_equal_and_are_measured_at_the_same_steps(curves):
    ce, kd = curves.values()
    assert (ce.points[0].loss, ce.points[0].kl) == (kd.points[0].loss, kd.points[0].kl)
    assert [p.steps for p in ce.points] == [p.steps for p in kd.points]
    assert (ce.points[0].steps, ce.points[-1].steps, len(ce.step_seconds)) == (0, STEPS, STEPS)


@pytest.mark.parametrize("name", list(LOSSES))
def test_student_learns(curves, name):
    # at first it knows nothing: 4.1 nats; after 80 steps either student is below 3.5
    first, last = curves[name].points[0], curves[name].points[-1]
    assert last.loss < first.loss - 0.5


def test_sparse_kd_student_is_nearer_to_the_teacher(curves):
    assert curves["sparse KD"].points[-1].kl < curves["cross-entropy"].points[-1].kl - 0.05


def test_seconds_are_those_of_the_steps_alone(curves):
    for curve in curves.values():
        assert curve.points[0].seconds == 0.0
        assert curve.points[-1].seconds == pytest.approx(sum(curve.step_seconds))


def test_kl_and_loss_of_a_student_agree_with_float64(toy):
    held_out, _, shape = toy
    student = Student(shape, seed=1)
    loss, kl = evaluate(student, held_out)
    losses, kls = [], []
    for tokens, labels, teacher in zip(held_out.tokens, held_out.labels, held_out.teacher, strict=True):
        log_q = student(tokens[None])[0].detach().double().log_softmax(-1)
        losses += [-log_q[t, labels[t]] for t in range(len(labels)) if labels[t] != -100]
        kls.append(torch.special.xlogy(teacher.double(), teacher.double()).sum(1) - (teacher.double() * log_q).sum(1))
    assert loss == pytest.approx(float(torch.stack(losses).mean()), abs=1e-4)
    assert kl == pytest.approx(float(torch.cat(kls).mean()), abs=1e-4)


def test_kl_of_a_student_that_is_the_teacher_is_zero(toy):
    held_out, _, _ = toy
    rows = {tuple(t.tolist()): r for t, r in zip(held_out.tokens, held_out.teacher, strict=True)}
    loss, kl = evaluate(lambda tokens: rows[tuple(tokens[0].tolist())].clamp_min(1e-30).log()[None], held_out)
    assert kl == pytest.approx(0.0, abs=1e-6)
    assert loss == pytest.approx(held_out.teacher_loss(), abs=1e-6)


def test_student_does_not_look_ahead(toy):
    _, batch, shape = toy
    student = Student(shape, seed=0)
    tokens = batch.tokens[:1].clone()
    before = student(tokens)
    tokens[0, 9:] = 0
    after = student(tokens)
    torch.testing.assert_close(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])


def test_learning_rate_warms_up_and_decays_to_a_tenth():
    plan = TrainingPlan(100)
    factors = [plan.rate_factor(step) for step in range(101)]
    assert factors[0] == pytest.approx(0.2)
    assert max(factors) == factors[5] == pytest.approx(1.0)
    assert factors[100] == pytest.approx(0.1)


def test_held_out_counts_its_positions(toy):
    held_out, _, _ = toy
    assert isinstance(held_out, HeldOut)
    assert held_out.num_positions == 8 * SEQ_LEN


def test_other_mass_is_what_the_kept_columns_lack(toy):
    held_out, _, _ = toy
    rows = torch.cat(held_out.teacher)
    assert held_out.other_mass() == pytest.approx(float((1 - rows[:, :-1].sum(1)).mean()), abs=1e-6)
