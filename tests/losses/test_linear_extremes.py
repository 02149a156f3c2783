"""`linear_sparse_kd_loss` at the sizes and values where kernels and products break first."""

import pytest
import torch

from logitstore.losses import linear_sparse_kd_loss
from logitstore.targets import SparseTargets
from tests.losses.random_targets import random_labels, random_targets
from tests.losses.test_linear_loss import fused, head_inputs, loss_and_grads, plain

#: one, two, a prime, odd, GPT-2's, Gemma's
VOCABULARIES = [1, 2, 251, 32_003, 50_257, 262_144]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("vocab_size", VOCABULARIES)
@pytest.mark.parametrize("counts", [[], [1], [1, 0, 12, 50, 2]], ids=["T=0", "K=1", "T=5"])
def test_any_vocabulary_is_within_the_yardstick_of_float64(vocab_size, counts, dtype):
    counts = [min(count, vocab_size) for count in counts]
    inputs = head_inputs(dtype, counts=counts, vocab_size=vocab_size, width=4)
    targets, labels = random_targets(counts, vocab_size), random_labels(len(counts), vocab_size)
    options = {"alpha": 0.7, "reduction": "sum"}
    # chunks of two rows
    loss, grads = loss_and_grads(fused, inputs, targets, labels, chunk_bytes=2 * vocab_size * 4, **options)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    wanted, wanted_grads = loss_and_grads(plain, exact, targets, labels, **options)
    torch_loss, torch_grads = loss_and_grads(plain, inputs, targets, labels, **options)
    for ours, theirs, true in zip((loss, *grads), (torch_loss, *torch_grads), (wanted, *wanted_grads), strict=True):
        off = (theirs.double() - true).abs()
        allowed = 2 * float(off.max()) + 1e-5 if off.numel() else 0.0
        torch.testing.assert_close(ours.double(), true, rtol=0, atol=allowed)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_columns_masked_by_a_bias_of_minus_infinity_are_as_if_they_were_not_there(reduction):
    hidden, weight, bias = head_inputs(torch.float32)
    targets, options = random_targets([2, 0, 3, 1, 0, 4, 1], 29), {"z_loss": 0.01, "reduction": reduction}
    with torch.no_grad():
        bias[29:] = -torch.inf
    loss, grads = loss_and_grads(fused, (hidden, weight, bias), targets, None, **options)
    few = hidden, weight[:29].detach().requires_grad_(), bias[:29].detach().requires_grad_()
    wanted, wanted_grads = loss_and_grads(fused, few, targets, None, **options)
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(grads[0], wanted_grads[0], rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(grads[1:], wanted_grads[1:], strict=True):
        torch.testing.assert_close(ours[:29], theirs, rtol=1e-5, atol=1e-6)
        assert torch.equal(ours[29:], torch.zeros_like(ours[29:]))


def test_an_entry_without_any_probability_costs_infinitely_much_and_one_of_weight_zero_nothing():
    hidden, weight, bias = head_inputs(torch.float32, counts=[2, 2])
    with torch.no_grad():
        bias[7] = -torch.inf
    targets = SparseTargets(torch.tensor([0, 2, 4]), torch.tensor([3, 7, 3, 7]).int(), torch.tensor([0.5, 0.5, 1, 0]))
    losses = fused(hidden, weight, bias, targets, reduction="none")
    assert losses[0] == torch.inf
    assert bool(losses[1].isfinite())
    without = SparseTargets(torch.tensor([0, 1]), torch.tensor([3]).int(), torch.ones(1))
    torch.testing.assert_close(losses[1:], fused(hidden[1:], weight, bias, without, reduction="none"))
    grads = torch.autograd.grad(losses[1], (hidden, weight, bias))
    assert all(bool(grad.isfinite().all()) for grad in grads)


def test_a_logit_of_plus_infinity_makes_the_loss_of_its_position_alone_not_finite():
    weight, targets = torch.tensor([[1.0, 0.0], [0.0, 3e38], [0.5, 0.5]]), random_targets([2, 2, 2], 3)
    hidden = torch.tensor([[1.0, 0.0], [0.0, 1e10], [0.3, 0.0]])
    losses = linear_sparse_kd_loss(hidden, weight, targets, reduction="none")
    assert losses.isfinite().tolist() == [True, False, True]
    others = SparseTargets(torch.tensor([0, 2, 4]), targets.ids[[0, 1, 4, 5]], targets.weights[[0, 1, 4, 5]])
    assert torch.equal(losses[[0, 2]], linear_sparse_kd_loss(hidden[[0, 2]], weight, others, reduction="none"))
