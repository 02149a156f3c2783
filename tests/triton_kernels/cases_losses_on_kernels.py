"""The public losses on top of the kernels. Run by test_kernels.py, in the interpreter or on a GPU.

A GPU takes the kernels by itself. Interpreted, the losses are told to, as CPU tensors have a path of their own.
"""

import sys

import pytest
import torch

from logitstore.losses import linear_sparse_kd_loss, positions, sparse_kd_loss
from logitstore.losses.select_lse import path_for
from logitstore.targets import SparseTargets
from logitstore.triton_kernels.select_lse import select_lse_backward, select_lse_forward
from tests.triton_kernels.kernel_device import DEVICE, assert_rounded

OPTIONS = {
    "targets-alone": {},
    "with-labels": {"alpha": 0.7},
    "temperature": {"alpha": 0.5, "temperature": 2.0},
    "smoothing": {"alpha": 0.5, "label_smoothing": 0.1},
    "z-loss-and-softcap": {"z_loss": 1e-3, "softcap": 20.0},
    "tail": {"missing_mass": "tail"},
}


class Kernels:
    """The path of a GPU, which counts how often it was taken."""

    def __init__(self) -> None:
        self.calls = 0

    def forward(self, *arguments, **options):
        self.calls += 1
        return select_lse_forward(*arguments, **options)

    def backward(self, *arguments, **options):
        self.calls += 1
        return select_lse_backward(*arguments, **options)


@pytest.fixture
def kernels(monkeypatch):
    kernels = Kernels()

    def path(logits):
        # float64 is what the kernels are compared with
        return path_for(logits) if logits.dtype == torch.float64 else kernels

    # by name: the package exports a function that is called like its module
    for module in ("logitstore.losses.select_lse", "logitstore.losses.linear_chunks"):
        monkeypatch.setattr(sys.modules[module], "path_for", path)
    return kernels


def problem(vocab_size, temperature=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([3, 0, 1, 7])
    ids = torch.cat([torch.randperm(vocab_size, generator=generator)[:count] for count in counts.tolist()]).int()
    weights = torch.rand(len(ids), generator=generator) / 8
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    targets = SparseTargets(offsets, ids, weights, sampler="top-k", teacher_temperature=temperature)
    labels = torch.tensor([int(ids[0]), 3, -100, 5])
    logits = (2 * torch.randn(4, vocab_size, generator=generator)).to(DEVICE, dtype)
    return logits, targets.to(DEVICE), labels.to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_the_loss_over_logits_takes_the_kernels_and_equals_float64(name, dtype, kernels):
    options = OPTIONS[name]
    logits, targets, labels = problem(251, options.get("temperature", 1.0), dtype)
    exact, found = logits.double().requires_grad_(), logits.requires_grad_()
    arguments = (targets, labels if "alpha" in options else None)
    loss, wanted = sparse_kd_loss(found, *arguments, **options), sparse_kd_loss(exact, *arguments, **options)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    loss.backward()
    wanted.backward()
    assert kernels.calls == 2
    assert_rounded(found.grad, exact.grad)


@pytest.mark.skipif(
    DEVICE == "cpu", reason="only a GPU's driver knows of waits; tests/losses/test_loss_waits.py has more"
)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_host_waits_for_a_gpu_once_in_the_fused_loss_and_never_over_logits(name, reduction, monkeypatch):
    options = OPTIONS[name] | {"reduction": reduction}
    logits, targets, labels = problem(251, options.get("temperature", 1.0), torch.bfloat16)
    hidden, weight = (torch.randn(size, 16, device=DEVICE, dtype=torch.bfloat16) for size in (4, 251))
    arguments = (targets, labels if "alpha" in options else None)
    inputs = [tensor.requires_grad_() for tensor in (logits, hidden, weight)]
    waits, on_host = [], positions.on_host

    def wait_once(values):
        torch.cuda.set_sync_debug_mode("default")
        waits.append(on_host(values))
        torch.cuda.set_sync_debug_mode("error")
        return waits[-1]

    monkeypatch.setattr(positions, "on_host", wait_once)

    def steps():
        sparse_kd_loss(logits, *arguments, **options).sum().backward()
        linear_sparse_kd_loss(hidden, weight, *arguments, chunk_bytes=1_100, **options).sum().backward()

    steps()  # compiles
    waits.clear()
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 1
    assert all(bool(tensor.grad.isfinite().all()) for tensor in inputs)


@pytest.mark.parametrize("vocab_size", [64, 251])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_fused_loss_takes_the_kernels_in_place_and_equals_float64(reduction, vocab_size, kernels):
    _, targets, labels = problem(vocab_size)
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(size, 16, generator=generator).to(DEVICE) for size in (4, vocab_size)]
    found = [tensor.clone().requires_grad_() for tensor in tensors]
    exact = [tensor.double().requires_grad_() for tensor in tensors]
    options = {"alpha": 0.5, "reduction": reduction, "chunk_bytes": 2 * 4 * vocab_size}
    loss, wanted = (linear_sparse_kd_loss(*pair, targets, labels, **options) for pair in (found, exact))
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-5)
    loss.sum().backward()
    wanted.sum().backward()
    # three positions have a target: two chunks, and for "none" each is computed again in the backward pass
    assert kernels.calls == (4 if reduction == "mean" else 6)
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=2e-5)
