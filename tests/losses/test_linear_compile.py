"""The fused loss inside torch.compile: one operator, of which the compiler sees shapes and the gradient."""

import pytest
import torch

from logitstore.errors import InvalidInput
from logitstore.losses import linear_sparse_kd_loss
from logitstore.losses.linear_chunks import Gradients
from logitstore.losses.linear_op import linear_losses_in_graph
from logitstore.losses.options import LossOptions
from logitstore.losses.positions import make_positions
from logitstore.targets import SparseTargets
from tests.losses.random_targets import random_labels, random_logits, random_targets

# inductor needs a C++ compiler on the CPU; aot_eager traces and differentiates the same graph without one
BACKEND = "aot_eager"
VOCAB, WIDTH = 31, 6
COUNTS = [2, 0, 3, 1, 0, 4, 1]
OPTIONS = {
    "mean": {},
    "none": {"reduction": "none", "alpha": 0.3},
    "all": {
        "alpha": 0.5, "label_smoothing": 0.1, "z_loss": 1e-3, "softcap": 30.0, "missing_mass": "tail",
        "reduction": "sum", "position_weights": torch.linspace(0.5, 2.0, len(COUNTS)),
    },
    "tempered": {"alpha": 0.5, "temperature": 2.0, "reduction": "none"},
    "kl": {"value": "kl"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def head_inputs(num_positions, dtype=torch.float32):
    shapes = (num_positions, WIDTH), (VOCAB, WIDTH), (1, VOCAB)
    hidden, weight, bias = (
        random_logits(*shape, seed=seed, scale=1.0, dtype=dtype) for seed, shape in enumerate(shapes)
    )
    return [tensor.requires_grad_() for tensor in (hidden, weight, bias[0])]


def step_with(name):
    def step(hidden, weight, bias, offsets, ids, weights, entropy, labels):
        targets = SparseTargets(offsets, ids, weights, sampler="top-k", teacher_entropy=entropy)
        return 3 * linear_sparse_kd_loss(
            hidden * 1, weight, targets, labels, bias=bias, chunk_bytes=3 * VOCAB * 4, **OPTIONS[name]
        )

    return step


def run(step, inputs, targets, labels):
    loss = step(*inputs, targets.offsets, targets.ids, targets.weights, torch.ones(len(labels)), labels)
    upstream = torch.linspace(0.5, 2.0, loss.numel()).view(loss.shape)
    return loss.detach(), *torch.autograd.grad(loss, [tensor for tensor in inputs if tensor.requires_grad], upstream)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_compiled_as_one_graph_it_gives_the_bits_it_gives_without(name, dtype):
    inputs, labels = head_inputs(len(COUNTS), dtype), random_labels(len(COUNTS), VOCAB)
    targets = random_targets(COUNTS, VOCAB)
    compiled = torch.compile(step_with(name), fullgraph=True, backend=BACKEND)
    for ours, wanted in zip(
        run(compiled, inputs, targets, labels), run(step_with(name), inputs, targets, labels), strict=True
    ):
        assert ours.dtype == wanted.dtype
        assert torch.equal(ours, wanted)


@pytest.mark.parametrize("name", ["mean", "none"])
def test_any_number_of_positions_and_entries_goes_into_one_graph(name):
    compiled = torch.compile(step_with(name), fullgraph=True, dynamic=True, backend=BACKEND)
    for counts in ([2, 0, 3], COUNTS, [0, 0]):
        inputs, labels = head_inputs(len(counts)), random_labels(len(counts), VOCAB)
        targets = random_targets(counts, VOCAB)
        for ours, wanted in zip(
            run(compiled, inputs, targets, labels), run(step_with(name), inputs, targets, labels), strict=True
        ):
            assert torch.equal(ours, wanted)


@pytest.mark.parametrize("name", ["mean", "none"])
def test_a_frozen_head_costs_no_product_in_a_graph_either(name, monkeypatch):
    made, add = [], Gradients.add
    monkeypatch.setattr(Gradients, "add", lambda self, *given: (made.append(self), add(self, *given)))
    hidden, weight, bias = head_inputs(len(COUNTS))
    inputs = [hidden, weight.detach(), bias.detach()]
    targets, labels = random_targets(COUNTS, VOCAB), random_labels(len(COUNTS), VOCAB)
    run(torch.compile(step_with(name), fullgraph=True, backend=BACKEND), inputs, targets, labels)
    assert made
    assert all((part.hidden is not None, part.weight, part.bias) == (True, None, None) for part in made)


def test_padded_targets_and_autocast_go_into_the_graph():
    hidden, weight, _ = head_inputs(len(COUNTS))
    targets = random_targets(COUNTS, VOCAB).to_padded(5)

    def step(hidden, weight):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return linear_sparse_kd_loss(hidden, weight, targets)

    losses = [torch.compile(step, fullgraph=True, backend=BACKEND)(hidden, weight), step(hidden, weight)]
    assert torch.equal(*losses)
    grads = [torch.autograd.grad(loss, (hidden, weight)) for loss in losses]
    assert all(torch.equal(a, b) and a.dtype == torch.float32 for a, b in zip(*grads, strict=True))


def operator_arguments(counts, dtype, reduction, *, padded=False):
    """Arguments of the operator, as the loss passes them."""
    inputs = head_inputs(len(counts), dtype)
    options = LossOptions(alpha=0.5, reduction=reduction)
    targets = random_targets(counts, VOCAB)
    labels = random_labels(len(counts), VOCAB)
    targets = targets.to_padded(6) if padded else targets
    positions = make_positions(targets, labels, None, options, torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        caught = []
        patch.setattr("logitstore.losses.linear_op._linear_losses", lambda *given: (caught.append(given), [None])[1])
        linear_losses_in_graph(*inputs, positions, options, 3 * VOCAB * 4, (True, True, True))
    return caught[0]


@pytest.mark.parametrize("padded", [False, True], ids=["csr", "padded"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("counts", [COUNTS, []], ids=["seven", "none"])
def test_opcheck(counts, reduction, padded):
    for dtype in (torch.float32, torch.bfloat16):
        arguments = operator_arguments(counts, dtype, reduction, padded=padded)
        torch.library.opcheck(torch.ops.logitstore.linear_losses.default, arguments)
        detached = [given.detach() if isinstance(given, torch.Tensor) else given for given in arguments]
        d_losses = torch.linspace(0.5, 2.0, len(counts), dtype=torch.float64)
        torch.library.opcheck(torch.ops.logitstore.linear_losses_backward.default, (*detached, d_losses))


def test_a_second_order_gradient_is_refused():
    arguments = operator_arguments(COUNTS, torch.float32, "none")
    losses = torch.ops.logitstore.linear_losses(*arguments)[0]
    (grad,) = torch.autograd.grad(losses.sum(), arguments[0], create_graph=True)
    with pytest.raises(InvalidInput, match="only first derivatives"):
        torch.autograd.grad(grad.sum(), arguments[1])
