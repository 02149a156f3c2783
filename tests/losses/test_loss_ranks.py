"""Two processes against one: DDP, and a head split by vocabulary."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from logitstore.errors import InvalidInput
from logitstore.losses import linear_sparse_kd_loss, sparse_kd_loss, vocab_parallel_sparse_kd_loss
from logitstore.targets import SparseTargets
from tests.losses.rank_inputs import COLUMNS, OPTIONS, Student, batch_of_rank, wide_batch

PROGRAM = Path(__file__).with_name("rank_program.py")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two gloo ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    started = [
        subprocess.Popen([sys.executable, PROGRAM, str(rank), folder], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    messages = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(messages)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def gradients_of_one(*, tied, reduction):
    """The gradients of one process that has both ranks' batches, by the loss over logits."""
    student = Student(tied=tied)
    for rank in range(2):
        tokens, targets = batch_of_rank(rank)
        losses = sparse_kd_loss(student(tokens) @ student.head_weight.t(), targets, reduction=reduction)
        # DDP and FSDP take the mean over the ranks
        (losses.sum() / 2).backward()
    return {name: parameter.grad for name, parameter in student.named_parameters()}


def assert_gradients_close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("tied", [True, False])
def test_two_ranks_under_ddp_give_the_gradient_of_one(ranks, tied):
    for rank in ranks:
        assert_gradients_close(rank["ddp"][tied], gradients_of_one(tied=tied, reduction="mean"))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_two_ranks_under_fsdp_give_the_gradient_of_one(ranks, reduction, tied):
    for rank in ranks:
        assert_gradients_close(rank["fsdp"][reduction, tied], gradients_of_one(tied=tied, reduction=reduction))


def test_a_weight_that_fsdp_has_not_gathered_is_refused_and_one_gathered_by_hand_is_not(ranks):
    for number, rank in enumerate(ranks):
        message, loss, grad = rank["fsdp_outside"]
        assert "weight: a DTensor" in message
        head, (tokens, targets) = Student(tied=False).head, batch_of_rank(number)
        wanted = sparse_kd_loss(torch.ones(len(tokens), 5, dtype=torch.float64) @ head.t(), targets)
        torch.testing.assert_close(loss, wanted.detach(), atol=1e-12, rtol=1e-10)
        assert grad.shape == head.shape


@pytest.mark.parametrize("form", ["csr", "padded", "dtensor"])
@pytest.mark.parametrize("name", OPTIONS)
def test_columns_on_two_ranks_give_the_loss_and_gradient_of_one(ranks, name, form):
    logits, targets, labels = wide_batch()
    logits.requires_grad_()
    wanted = sparse_kd_loss(logits, targets, labels, **OPTIONS[name])
    (wanted_grad,) = torch.autograd.grad(wanted.sum(), logits)
    results = [rank["vocab_parallel"][name, form] for rank in ranks]
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][0], wanted.detach(), atol=1e-10, rtol=1e-10)
    for (_, grad), (first, last) in zip(results, COLUMNS, strict=True):
        torch.testing.assert_close(grad, wanted_grad[:, first:last], atol=1e-9, rtol=1e-9)


def test_columns_that_leave_a_gap_are_refused(ranks):
    for rank in ranks:
        assert "leave a gap or overlap at column 9" in rank["gap"]


def test_without_a_process_group_it_says_so():
    logits, targets, labels = wide_batch()
    with pytest.raises(InvalidInput, match="there is no process group"):
        vocab_parallel_sparse_kd_loss(logits, targets, labels, first_column=0)


@pytest.mark.parametrize("first_column", [-1, 1.0, True, None])
def test_a_first_column_that_is_none(first_column):
    logits, targets, _ = wide_batch()
    with pytest.raises(InvalidInput, match="first_column is"):
        vocab_parallel_sparse_kd_loss(logits, targets, first_column=first_column)


@pytest.mark.parametrize("which", ["hidden", "weight", "student_logits"])
def test_tensors_spread_over_ranks_are_refused(which):
    given = {"hidden": torch.zeros(1, 2), "weight": torch.zeros(3, 2), "student_logits": torch.zeros(1, 3)}
    given[which].full_tensor = lambda: given[which]  # what tells a DTensor from other tensors
    targets = SparseTargets(torch.tensor([0, 1]), torch.tensor([2]).int(), torch.ones(1))
    loss = sparse_kd_loss if which == "student_logits" else linear_sparse_kd_loss
    inputs = [given["student_logits"]] if which == "student_logits" else [given["hidden"], given["weight"]]
    with pytest.raises(InvalidInput, match=rf"{which}: a DTensor.*{which}.full_tensor\(\)"):
        loss(*inputs, targets)
