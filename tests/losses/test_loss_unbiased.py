"""The mean gradient over many random draws is the gradient of full distillation, and top-k's is not."""

import pytest
import torch

from logitstore.losses import sparse_kd_loss
from logitstore.targets import SparseTargets
from tests.losses.dense_oracle import dense_loss

SEED = 20
VOCAB, DRAWS, REPEATS = 16, 8, 20_000

# Zipf; the rarest token is expected 20,000 * 8 * p_16 = 2,956 times, so nothing needs pooling
TEACHER = (1.0 / torch.arange(1, VOCAB + 1)) / (1.0 / torch.arange(1, VOCAB + 1)).sum()
STUDENT = torch.randn(VOCAB, generator=torch.Generator().manual_seed(SEED)).double()
FULL_GRADIENT = dense_loss(STUDENT[None], TEACHER[None])[1][0]


@pytest.fixture(scope="module")
def drawn_gradients():
    """Gradients at the student's logits, [REPEATS, V], each of its own draw of counts / n."""
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.multinomial(TEACHER, REPEATS * DRAWS, replacement=True, generator=generator).view(REPEATS, DRAWS)
    dense = torch.zeros(REPEATS, VOCAB).scatter_add_(1, ids, torch.full(ids.shape, 1.0 / DRAWS))
    rows, columns = dense.nonzero(as_tuple=True)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), (dense > 0).sum(1).cumsum(0)])
    targets = SparseTargets(offsets, columns.int(), dense[rows, columns], sampler="random-sampling")
    logits = STUDENT.expand(REPEATS, VOCAB).clone().requires_grad_()
    (gradients,) = torch.autograd.grad(sparse_kd_loss(logits, targets, reduction="sum"), logits)
    return gradients


def test_the_mean_gradient_of_random_draws_is_the_full_gradient(drawn_gradients):
    error = drawn_gradients.std(dim=0) / REPEATS**0.5
    z = (drawn_gradients.mean(dim=0) - FULL_GRADIENT) / error
    # 16 statistics, each beyond 4.5 with chance 6.8e-6: a false alarm for one seed in 9,000
    assert float(z.abs().max()) < 4.5


def test_renormalised_top_k_misses_the_full_gradient_in_the_tail(drawn_gradients):
    kept = 4
    weights = TEACHER[:kept] / TEACHER[:kept].sum()
    targets = SparseTargets(torch.tensor([0, kept]), torch.arange(kept).int(), weights, sampler="top-k")
    logits = STUDENT[None].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(sparse_kd_loss(logits, targets), logits)
    # top-k has no variance of its own, so the miss is counted in standard errors of the test above
    tail_error = drawn_gradients[:, kept:].sum(dim=1).std() / REPEATS**0.5
    z = (gradient[0, kept:].sum() - FULL_GRADIENT[kept:].sum()) / tail_error
    assert abs(float(z)) > 10
