"""The losses inside torch.compile and autocast."""

import pytest
import torch

from logitstore.losses import sparse_kd_loss
from logitstore.targets import SparseTargets
from tests.losses.random_targets import random_labels, random_logits, random_targets

# inductor needs a C++ compiler on the CPU; aot_eager traces and differentiates the same graph without one
BACKEND = "aot_eager"
OPTIONS = {
    "all": {
        "alpha": 0.5, "label_smoothing": 0.1, "z_loss": 1e-3, "softcap": 30.0, "missing_mass": "tail",
        "reduction": "none",
    },
    "tempered": {"alpha": 0.5, "temperature": 2.0},
}  # fmt: skip


def loss_and_grad(function, logits, targets, labels):
    leaf = logits.detach().clone().requires_grad_()
    loss = function(leaf, targets.offsets, targets.ids, targets.weights, labels)
    (grad,) = torch.autograd.grad(loss.sum(), leaf)
    return loss.detach(), grad


@pytest.mark.parametrize("name", OPTIONS)
def test_compiled_as_one_graph_with_any_number_of_positions_and_entries(name):
    def loss(logits, offsets, ids, weights, labels):
        return sparse_kd_loss(logits, SparseTargets(offsets, ids, weights, sampler="top-k"), labels, **OPTIONS[name])

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend=BACKEND)
    for counts in ([2, 0, 3], [4, 1, 1, 0, 6]):
        logits, labels = random_logits(len(counts), 31), random_labels(len(counts), 31)
        targets = random_targets(counts, 31)
        for ours, wanted in zip(
            loss_and_grad(compiled, logits, targets, labels), loss_and_grad(loss, logits, targets, labels), strict=True
        ):
            assert torch.equal(ours, wanted)
    torch.compiler.reset()


def test_padded_targets_go_into_a_compiled_function_as_they_are():
    targets, logits = random_targets([2, 0, 3], 31).to_padded(), random_logits(3, 31)
    torch.compiler.reset()
    compiled = torch.compile(sparse_kd_loss, fullgraph=True, backend=BACKEND)
    assert torch.equal(compiled(logits, targets), sparse_kd_loss(logits, targets))
    torch.compiler.reset()


def test_autocast_leaves_the_loss_in_float32():
    hidden, head = torch.randn(3, 8, generator=torch.Generator().manual_seed(3)), torch.nn.Linear(8, 31)
    targets = random_targets([2, 0, 3], 31)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(hidden)
        loss = sparse_kd_loss(logits, targets, z_loss=0.1)
    assert logits.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert torch.equal(loss, sparse_kd_loss(logits, targets, z_loss=0.1))
    loss.backward()
    assert head.weight.grad.dtype == torch.float32
