import math

import pytest
import torch

from logitstore.losses import sparse_kd_loss
from logitstore.targets import PaddedTargets, SparseTargets
from tests.losses.random_targets import loss_and_grad, random_labels, random_logits, random_targets


def forms(targets):
    return [targets, targets.to_padded()]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("garbage", [1.0, 1e30, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_position_without_entries_has_loss_and_gradient_exactly_zero(alpha, garbage, dtype):
    logits = random_logits(3, 9, dtype=dtype)
    logits[1] = garbage
    labels = torch.tensor([1, 2, 3])  # the masked position has a label, which must not count either
    for targets in forms(random_targets([2, 0, 3], 9)):
        loss, grad = loss_and_grad(logits, targets, labels, alpha=alpha, reduction="none")
        assert loss[1] == 0
        assert bool((grad[1] == 0).all())
        assert bool(loss.isfinite().all())
        assert bool(grad.isfinite().all())
        assert bool((grad[[0, 2]] != 0).any(dim=1).all())


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_masked_positions_do_not_touch_the_others(alpha):
    logits, labels = random_logits(3, 9), torch.tensor([1, 2, 3])
    targets = random_targets([2, 0, 3], 9)
    without = SparseTargets(torch.tensor([0, 2, 5]), targets.ids, targets.weights)
    loss, grad = loss_and_grad(logits, targets, labels, alpha=alpha)
    alone, alone_grad = loss_and_grad(logits[[0, 2]], without, labels[[0, 2]], alpha=alpha)
    torch.testing.assert_close(loss, alone, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(grad[[0, 2]], alone_grad, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("counts", [[], [0, 0, 0]], ids=["no-positions", "all-masked"])
def test_without_targets_the_loss_is_zero_with_zero_gradient(counts, reduction):
    logits, labels = random_logits(len(counts), 4), random_labels(len(counts), 4)
    for targets in forms(random_targets(counts, 4)):
        loss, grad = loss_and_grad(logits, targets, labels, alpha=0.5, reduction=reduction)
        assert loss.shape == ()
        assert loss == 0
        assert torch.equal(grad, torch.zeros(len(counts), 4))


def test_no_sequences_and_no_positions_keep_their_shape():
    for shape in [(0, 3, 5), (2, 0, 5)]:
        assert sparse_kd_loss(torch.zeros(shape), random_targets([], 5), reduction="none").shape == shape[:2]


def test_padded_targets_of_no_positions_may_be_wide():
    targets = PaddedTargets(torch.empty(0, 4, dtype=torch.int32), torch.empty(0, 4))
    assert sparse_kd_loss(torch.empty(0, 7), targets) == 0


def test_the_mean_is_over_positions_with_a_target_also_where_labels_are_ignored():
    logits, targets = random_logits(5, 9), random_targets([2, 0, 3, 1, 0], 9)
    labels = torch.tensor([1, 2, -100, -100, 4])
    losses = sparse_kd_loss(logits, targets, labels, alpha=0.4, reduction="none")
    total = sparse_kd_loss(logits, targets, labels, alpha=0.4, reduction="sum")
    mean = sparse_kd_loss(logits, targets, labels, alpha=0.4)
    assert float(total) == pytest.approx(float(losses.sum()), rel=1e-6)
    assert float(mean) == pytest.approx(float(total) / 3, rel=1e-6)


def test_a_position_whose_weights_are_all_zero_is_a_target():
    targets = random_targets([1, 1], 4)
    targets.weights[0] = 0
    losses = sparse_kd_loss(random_logits(2, 4), targets, reduction="none")
    assert losses[0] == 0
    assert float(sparse_kd_loss(random_logits(2, 4), targets)) == pytest.approx(float(losses[1]) / 2)


def test_an_ignored_label_leaves_the_distilled_term_alone():
    logits, targets = random_logits(1, 6), random_targets([3], 6)
    loss, grad = loss_and_grad(logits, targets, torch.tensor([-100]), alpha=0.3)
    distilled, distilled_grad = loss_and_grad(logits, targets)
    torch.testing.assert_close(loss, 0.3 * distilled)
    torch.testing.assert_close(grad, 0.3 * distilled_grad)


def test_inputs_are_left_as_they_were():
    logits, targets, labels = random_logits(3, 9), random_targets([2, 0, 3], 9, sampler="top-k"), random_labels(3, 9)
    before = logits.clone(), targets.weights.clone(), labels.clone()
    sparse_kd_loss(logits, targets, labels, alpha=0.5, temperature=2.0)
    for now, then in zip((logits, targets.weights, labels), before, strict=True):
        assert torch.equal(now, then)
