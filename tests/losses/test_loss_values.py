import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from logitstore.losses import sparse_kd_loss
from logitstore.targets import PaddedTargets, SparseTargets
from tests.losses.dense_oracle import dense_loss
from tests.losses.random_targets import cases, loss_and_grad, random_labels, random_logits, random_targets
from tests.losses.tolerances import assert_close_to_oracle

# name: entries of each position, vocabulary; what each is for stands in its name
SHAPES = {
    "no-positions": ([], 7),
    "one-entry-each": ([1, 1, 1, 1], 7),
    "one-column": ([1, 0, 1], 1),
    "two-columns": ([1, 2, 0], 2),
    "odd-vocabulary": ([5, 1, 0, 17, 3], 251),
    "real-vocabulary": ([9, 0, 50], 32003),
    "whole-vocabulary-kept": ([11, 11], 11),
    "all-masked": ([0, 0, 0], 5),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient_equal_the_dense_formula(shape, dtype):
    counts, vocab_size = SHAPES[shape]
    logits = random_logits(len(counts), vocab_size, dtype=dtype)
    targets, labels = random_targets(counts, vocab_size), random_labels(len(counts), vocab_size)
    for reduction in ("none", "sum", "mean"):
        loss, grad = loss_and_grad(logits, targets, labels, alpha=0.3, reduction=reduction)
        wanted = dense_loss(logits, targets, labels, alpha=0.3, reduction=reduction)
        assert grad.dtype == dtype
        assert_close_to_oracle(loss, grad, *wanted, dtype=dtype)


@settings(max_examples=150, deadline=None)
@given(cases(), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from(["none", "sum", "mean"]))
def test_random_targets_equal_the_dense_formula(case, alpha, reduction):
    # float64, so that only a wrong formula can differ, not the rounding of large logits
    logits = case.logits.double()
    loss, grad = loss_and_grad(logits, case.targets, case.labels, alpha=alpha, reduction=reduction)
    wanted = dense_loss(logits, case.targets, case.labels, alpha=alpha, reduction=reduction)
    assert_close_to_oracle(loss, grad, *wanted, dtype=torch.float64)


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(0, 3), st.sampled_from([0.0, 0.3, 1.0]))
def test_padded_targets_give_the_loss_and_gradient_of_csr_targets(case, extra_width, alpha):
    widest = int(case.targets.counts.max()) if case.targets.num_positions else 0
    padded = case.targets.to_padded(widest + extra_width)
    loss, grad = loss_and_grad(case.logits, padded, case.labels, alpha=alpha, reduction="none")
    wanted, wanted_grad = loss_and_grad(case.logits, case.targets, case.labels, alpha=alpha, reduction="none")
    torch.testing.assert_close(loss, wanted, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(grad, wanted_grad, atol=1e-6, rtol=1e-6)


def test_padding_between_entries_and_its_weight_are_ignored():
    logits = random_logits(1, 6)
    scattered = PaddedTargets(torch.tensor([[-1, 4, -1, 2]]).int(), torch.tensor([[9.0, 0.7, float("nan"), 0.3]]))
    tight = SparseTargets(torch.tensor([0, 2]), torch.tensor([4, 2]).int(), torch.tensor([0.7, 0.3]))
    loss, grad = loss_and_grad(logits, scattered)
    wanted, wanted_grad = loss_and_grad(logits, tight)
    assert torch.equal(loss, wanted)
    assert torch.equal(grad, wanted_grad)


def test_padding_is_ignored_where_the_logit_of_token_0_is_minus_infinity():
    logits = random_logits(1, 4)
    logits[0, 0] = -float("inf")
    targets = SparseTargets(torch.tensor([0, 1]), torch.tensor([2]).int(), torch.tensor([1.0]))
    loss, grad = loss_and_grad(logits, targets.to_padded(3))
    assert_close_to_oracle(loss, grad[:, 1:], *dense_loss(logits[:, 1:], shifted_down(targets)), dtype=torch.float32)
    assert grad[0, 0] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_columns_of_minus_infinity_are_as_if_they_were_not_there(dtype):
    logits, labels = random_logits(3, 9, dtype=dtype), torch.tensor([4, 2, -100])
    padded = torch.cat([logits, torch.full((3, 3), -torch.inf, dtype=dtype)], dim=1)
    targets = random_targets([2, 0, 3], 9)
    options = {"alpha": 0.3, "z_loss": 0.01}
    loss, grad = loss_and_grad(padded, targets, labels, **options)
    wanted, wanted_grad = loss_and_grad(logits, targets, labels, **options)
    torch.testing.assert_close(loss, wanted, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(grad[:, :9], wanted_grad, atol=1e-7, rtol=torch.finfo(dtype).eps)
    assert bool((grad[:, 9:] == 0).all())


def test_a_logit_of_plus_infinity_makes_the_loss_of_its_position_alone_not_finite():
    logits, targets = random_logits(3, 9), random_targets([2, 2, 2], 9)
    whole = sparse_kd_loss(logits, targets, reduction="none")
    logits[1, 4] = torch.inf
    losses = sparse_kd_loss(logits, targets, reduction="none")
    assert losses.isfinite().tolist() == [True, False, True]
    assert torch.equal(losses[[0, 2]], whole[[0, 2]])


def shifted_down(targets):
    return SparseTargets(targets.offsets, targets.ids - 1, targets.weights)


def test_repeated_ids_add_up():
    logits = random_logits(1, 5)
    repeated = SparseTargets(torch.tensor([0, 3]), torch.tensor([1, 1, 3]).int(), torch.tensor([0.25, 0.5, 0.25]))
    loss, grad = loss_and_grad(logits, repeated)
    assert_close_to_oracle(loss, grad, *dense_loss(logits, repeated), dtype=torch.float32)


@pytest.mark.parametrize("total", [0.0, 0.4, 1.7])
def test_gradient_is_the_weight_sum_times_q_minus_the_weights(total):
    logits = random_logits(1, 9, dtype=torch.float64)
    targets = random_targets([4], 9)
    targets = SparseTargets(targets.offsets, targets.ids, targets.weights * total)
    _, grad = loss_and_grad(logits, targets)
    dense = targets.to_dense(9).double()
    torch.testing.assert_close(grad, dense.sum() * torch.softmax(logits, -1) - dense, atol=1e-13, rtol=0)


def test_a_student_as_sure_as_the_teacher_has_a_loss_near_zero_without_cancellation():
    # lse - z in float32 would be off by 4e-6 at z = 100; what is left here is e^-12 = 6e-6
    logits = torch.full((1, 3), 100.0)
    logits[0, 1] = 112.0
    targets = SparseTargets(torch.tensor([0, 1]), torch.tensor([1]).int(), torch.tensor([1.0]))
    loss, _ = loss_and_grad(logits, targets)
    wanted, _ = dense_loss(logits, targets)
    assert float(loss) == pytest.approx(float(wanted), rel=1e-2)


def test_autograd_gradient_equals_finite_differences():
    targets, labels = random_targets([3, 0, 2], 6, normalised=False), torch.tensor([1, 2, -100])
    leaf = random_logits(3, 6, dtype=torch.float64).requires_grad_()
    for reduction in ("none", "sum", "mean"):
        assert torch.autograd.gradcheck(
            lambda z, how=reduction: sparse_kd_loss(z, targets, labels, alpha=0.3, reduction=how), (leaf,)
        )


def test_alpha_0_equals_cross_entropy():
    logits, labels = random_logits(6, 33), random_labels(6, 33, ignored=0)
    loss, grad = loss_and_grad(logits, random_targets([2] * 6, 33), labels, alpha=0.0)
    leaf = logits.clone().requires_grad_()
    wanted = functional.cross_entropy(leaf, labels)
    (wanted_grad,) = torch.autograd.grad(wanted, leaf)
    torch.testing.assert_close(loss, wanted.detach(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(grad, wanted_grad, atol=1e-7, rtol=1e-6)


def test_alpha_1_is_the_same_with_and_without_labels():
    logits, targets = random_logits(3, 8), random_targets([2, 3, 1], 8)
    for with_labels, without in zip(
        loss_and_grad(logits, targets, random_labels(3, 8)), loss_and_grad(logits, targets), strict=True
    ):
        assert torch.equal(with_labels, without)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_term_of_weight_zero_does_not_count_where_it_is_infinite(alpha):
    logits = random_logits(1, 5)
    logits[0, 4] = -float("inf")  # the entry at alpha 0, the label at alpha 1
    entry, label = (4, 2) if alpha == 0 else (2, 4)
    targets = SparseTargets(torch.tensor([0, 1]), torch.tensor([entry]).int(), torch.tensor([1.0]))
    loss, grad = loss_and_grad(logits, targets, torch.tensor([label]), alpha=alpha)
    assert float(loss) == pytest.approx(-float(torch.log_softmax(logits[0], 0)[2]), rel=1e-6)
    assert bool(grad.isfinite().all())


def test_the_label_may_be_among_the_ids():
    logits, targets = random_logits(1, 7), random_targets([3], 7)
    labels = targets.ids[:1].long()
    loss, grad = loss_and_grad(logits, targets, labels, alpha=0.3)
    assert_close_to_oracle(loss, grad, *dense_loss(logits, targets, labels, alpha=0.3), dtype=torch.float32)


def test_logits_by_sequence_give_losses_by_sequence():
    logits, targets, labels = random_logits(6, 9), random_targets([2, 0, 1, 3, 1, 2], 9), random_labels(6, 9)
    wanted, wanted_grad = loss_and_grad(logits, targets, labels, alpha=0.5, reduction="none")
    for given_labels in (labels, labels.view(2, 3)):
        loss, grad = loss_and_grad(logits.view(2, 3, 9), targets, given_labels, alpha=0.5, reduction="none")
        assert torch.equal(loss, wanted.view(2, 3))
        assert torch.equal(grad, wanted_grad.view(2, 3, 9))


def test_non_contiguous_logits_and_labels_give_the_same_loss():
    logits, targets, labels = random_logits(6, 9), random_targets([2, 0, 1, 3, 1, 2], 9), random_labels(6, 9)
    wanted = sparse_kd_loss(logits.view(2, 3, 9), targets, labels.view(2, 3), alpha=0.5)
    by_column = logits.view(2, 3, 9).permute(2, 1, 0).contiguous().permute(2, 1, 0)
    labels_by_column = labels.view(2, 3).t().contiguous().t()
    assert not by_column.is_contiguous()
    assert not labels_by_column.is_contiguous()
    assert torch.equal(sparse_kd_loss(by_column, targets, labels_by_column, alpha=0.5), wanted)


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_the_loss_is_float32_and_float64_for_float64(dtype, wanted):
    targets = random_targets([2, 0], 5, teacher_entropy=torch.ones(2))
    for options in ({}, {"value": "kl"}, {"reduction": "none"}):
        assert sparse_kd_loss(random_logits(2, 5, dtype=dtype), targets, **options).dtype == wanted


def test_kl_of_the_whole_distribution_equals_the_dense_kl_with_the_same_gradient():
    teacher = random_logits(4, 13, seed=5).double().log_softmax(-1)
    entropy = -(teacher.exp() * teacher).sum(-1)
    targets = SparseTargets(
        torch.arange(5) * 13,
        torch.arange(13).repeat(4).int(),
        teacher.exp().float().flatten(),
        teacher_entropy=entropy.float(),
    )
    logits = random_logits(4, 13, dtype=torch.float64)
    loss, grad = loss_and_grad(logits, targets, value="kl")
    wanted = functional.kl_div(logits.log_softmax(-1), teacher, reduction="batchmean", log_target=True)
    assert float(loss) == pytest.approx(float(wanted), abs=1e-6)  # weights and entropy are stored in float32
    assert torch.equal(grad, loss_and_grad(logits, targets)[1])


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_kl_subtracts_the_entropy_from_the_distilled_term_of_targets_alone(reduction):
    entropy = torch.tensor([0.5, float("nan"), 2.0])  # a masked position may hold anything
    targets = random_targets([2, 0, 3], 9, teacher_entropy=entropy)
    logits, labels = random_logits(3, 9, dtype=torch.float64), torch.tensor([3, 4, -100])
    options = {"alpha": 0.3, "reduction": reduction}
    wanted = dense_loss(logits, targets, labels, entropy=entropy, **options)
    for form in (targets, targets.to_padded()):
        loss, grad = loss_and_grad(logits, form, labels, value="kl", **options)
        assert_close_to_oracle(loss, grad, *wanted, dtype=torch.float64)
