"""`linear_sparse_kd_loss` against `sparse_kd_loss` of the logits it never makes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from logitstore.errors import InvalidInput
from logitstore.losses import linear_sparse_kd_loss, sparse_kd_loss
from logitstore.losses.linear_chunks import ChunkedHead, Gradients
from logitstore.targets import SparseTargets
from tests.losses.random_targets import random_labels, random_logits, random_targets
from tests.support.peak_memory import peak_bytes_of

WIDTH, VOCAB = 6, 31
COUNTS = [2, 0, 3, 1, 0, 4, 1]


def head_inputs(dtype=torch.float64, *, counts=COUNTS, vocab_size=VOCAB, width=WIDTH, seed=4):
    hidden = random_logits(len(counts), width, seed=seed, scale=1.0, dtype=dtype)
    weight = random_logits(vocab_size, width, seed=seed + 1, scale=1.0, dtype=dtype)
    bias = random_logits(1, vocab_size, seed=seed + 2, scale=1.0, dtype=dtype)[0]
    return [tensor.requires_grad_() for tensor in (hidden, weight, bias)]


def fused(hidden, weight, bias, targets, labels=None, **options):
    return linear_sparse_kd_loss(hidden, weight, targets, labels, bias=bias, **options)


def plain(hidden, weight, bias, targets, labels=None, **options):
    return sparse_kd_loss(torch.nn.functional.linear(hidden, weight, bias), targets, labels, **options)


def loss_and_grads(function, inputs, targets, labels, *, upstream=None, **options):
    loss = function(*inputs, targets, labels, **options)
    weights = (
        torch.linspace(0.5, 2.0, loss.numel(), dtype=loss.dtype).view(loss.shape) if upstream is None else upstream
    )
    return loss.detach(), torch.autograd.grad(loss, [part for part in inputs if part is not None], weights)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 5), max_size=9),
    st.sampled_from(["none", "sum", "mean"]),
    st.sampled_from([1, VOCAB * 8, VOCAB * 8 * 3, None]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(
        [
            {},
            {"alpha": 0.3, "label_smoothing": 0.1, "z_loss": 0.01, "softcap": 5.0},
            {"alpha": 0.3, "missing_mass": "tail"},
            {"alpha": 0.0, "temperature": 2.0},
            {"temperature": 2.0, "missing_mass": "renormalise"},
        ]
    ),
)
def test_loss_and_gradients_equal_those_over_logits(counts, reduction, chunk_bytes, padded, weighted, options):
    inputs = head_inputs(counts=counts)
    targets, labels = random_targets(counts, VOCAB, sampler="top-k"), random_labels(len(counts), VOCAB)
    targets.weights.mul_(0.8)
    targets = targets.to_padded() if padded else targets
    options = options | {"reduction": reduction}
    if weighted:
        options["position_weights"] = torch.linspace(0.0, 2.0, len(counts))
    loss, grads = loss_and_grads(fused, inputs, targets, labels, chunk_bytes=chunk_bytes, **options)
    wanted, wanted_grads = loss_and_grads(plain, inputs, targets, labels, **options)
    torch.testing.assert_close(loss, wanted, atol=1e-10, rtol=1e-10)
    for ours, theirs in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_each_dtype_is_within_the_yardstick(dtype, reduction):
    counts = [3, 0, 1, 5, 2, 2, 0, 1] * 8
    inputs = head_inputs(dtype, counts=counts, vocab_size=251, width=32)
    targets, labels = random_targets(counts, 251), random_labels(len(counts), 251)
    options = {"alpha": 0.5, "reduction": reduction}
    loss, grads = loss_and_grads(fused, inputs, targets, labels, chunk_bytes=10_000, **options)
    exact, exact_grads = loss_and_grads(
        plain, [tensor.detach().double().requires_grad_() for tensor in inputs], targets, labels, **options
    )
    torch_loss, torch_grads = loss_and_grads(plain, inputs, targets, labels, **options)
    assert loss.dtype == torch.float32
    for ours, theirs, wanted in zip((loss, *grads), (torch_loss, *torch_grads), (exact, *exact_grads), strict=True):
        allowed = 2 * float((theirs.double() - wanted).abs().max()) + 1e-5
        assert float((ours.double() - wanted).abs().max()) <= allowed
    assert [grad.dtype for grad in grads] == [dtype] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("margin", [4.0, 7.0, 12.0])
def test_a_sure_student_keeps_the_small_gradient_of_its_token(margin, dtype):
    # p of the only entry goes to 1, where p - w cancels: added to a bf16 gradient, w would be off by 2^-9
    width, vocab_size = 8, 251
    weight = torch.zeros(vocab_size, width)
    weight[7, 0] = 1.0
    hidden = torch.zeros(3, width)
    hidden[:, 0] = margin + torch.tensor(vocab_size - 1.0).log()
    hidden, weight = (tensor.to(dtype).requires_grad_() for tensor in (hidden, weight))
    targets = SparseTargets(torch.arange(4), torch.full((3,), 7).int(), torch.ones(3))
    _, grads = loss_and_grads(linear_sparse_kd_loss, (hidden, weight), targets, None, upstream=torch.ones(()))
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    loss = torch.nn.functional.cross_entropy(exact[0] @ exact[1].t(), torch.full((3,), 7))
    rounding = {torch.float32: 1e-5, torch.bfloat16: 2.0**-8}[dtype]
    for ours, wanted in zip(grads, torch.autograd.grad(loss, exact), strict=True):
        # a float32 sum of exponentials is off by 2e-7, and hidden states reach 18
        torch.testing.assert_close(ours.double(), wanted, rtol=rounding, atol=1e-5)
        assert bool((wanted != 0).any())


def test_hidden_states_by_sequence_and_targets_of_every_position():
    inputs = head_inputs(counts=[1, 2, 3, 4, 1, 1])
    targets, labels = random_targets([1, 2, 3, 4, 1, 1], VOCAB), random_labels(6, VOCAB)
    hidden = inputs[0].detach().view(2, 3, WIDTH)
    by_sequence = fused(hidden, *inputs[1:], targets, labels.view(2, 3), alpha=0.5, reduction="none")
    wanted = fused(*inputs, targets, labels, alpha=0.5, reduction="none")
    assert torch.equal(by_sequence, wanted.view(2, 3))


@pytest.mark.parametrize("counts", [[], [0, 0]], ids=["no-positions", "all-masked"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_without_targets_loss_and_gradients_are_zero(counts, reduction):
    inputs = head_inputs(torch.float32, counts=counts)
    loss = fused(*inputs, random_targets(counts, VOCAB), reduction=reduction)
    assert torch.equal(loss, torch.zeros(len(counts) if reduction == "none" else ()))
    for grad, tensor in zip(torch.autograd.grad(loss.sum(), inputs), inputs, strict=True):
        assert torch.equal(grad, torch.zeros_like(tensor))


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_hidden_states_of_positions_without_a_target_may_hold_anything(reduction):
    hidden, weight, bias = head_inputs(torch.float32)
    with torch.no_grad():
        hidden[[1, 4]] = float("nan")
    targets = random_targets(COUNTS, VOCAB)
    loss = fused(hidden, weight, bias, targets, reduction=reduction)
    grads = torch.autograd.grad(loss.sum(), (hidden, weight, bias))
    assert bool(loss.isfinite().all())
    assert all(bool(grad.isfinite().all()) for grad in grads)
    assert bool((grads[0][[1, 4]] == 0).all())


@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True)])
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_what_is_frozen_gets_no_gradient_and_no_product(monkeypatch, needs, reduction):
    made = []
    add = Gradients.add
    monkeypatch.setattr(Gradients, "add", lambda self, *given: (made.append(self), add(self, *given)))
    inputs = [tensor.detach().requires_grad_(need) for tensor, need in zip(head_inputs(), needs, strict=True)]
    fused(*inputs, random_targets(COUNTS, VOCAB), reduction=reduction).sum().backward()
    assert [tensor.grad is not None for tensor in inputs] == list(needs)
    assert [part is not None for part in (made[0].hidden, made[0].weight, made[0].bias)] == list(needs)


def test_without_gradients_only_the_logits_are_computed(monkeypatch):
    monkeypatch.setattr(Gradients, "add", None)
    targets = random_targets(COUNTS, VOCAB)
    for reduction in ("none", "mean"):
        with torch.no_grad():
            loss = fused(*head_inputs(), targets, reduction=reduction)
        torch.testing.assert_close(loss, plain(*head_inputs(), targets, reduction=reduction).detach())
        assert not loss.requires_grad


def test_a_weight_tied_to_the_embedding_gets_both_gradients():
    tokens = torch.tensor([3, 4, 5, 6, 7, 8, 9])
    targets = random_targets(COUNTS, VOCAB)
    weight = head_inputs()[1]
    grads = [
        torch.autograd.grad(function(weight[tokens], weight, None, targets), weight)[0] for function in (fused, plain)
    ]
    torch.testing.assert_close(*grads, atol=1e-12, rtol=1e-10)


def test_no_chunk_is_larger_than_asked_for_and_a_row_is_always_allowed(monkeypatch):
    sizes = []
    losses = ChunkedHead._losses

    def recorded(self, logits, *given, **named):
        sizes.append(tuple(logits.shape))
        return losses(self, logits, *given, **named)

    monkeypatch.setattr(ChunkedHead, "_losses", recorded)
    counts = [1] * 10
    for rows, wanted in ((3, [3, 3, 3, 1]), (4, [4, 4, 2]), (10, [10]), (99, [10])):
        sizes.clear()
        fused(*head_inputs(counts=counts), random_targets(counts, VOCAB), chunk_bytes=rows * VOCAB * 8 + 7)
        assert sizes == [(count, VOCAB) for count in wanted]
    sizes.clear()
    fused(*head_inputs(counts=counts), random_targets(counts, VOCAB), chunk_bytes=1)
    assert sizes == [(1, VOCAB)] * 10


def test_a_second_backward_is_refused_where_the_first_handed_the_gradients_over():
    inputs, targets = head_inputs(), random_targets(COUNTS, VOCAB)
    loss = fused(*inputs, targets)
    loss.backward(retain_graph=True)
    first = inputs[1].grad.clone()
    with pytest.raises(InvalidInput, match=r'a second backward.*use reduction="none"'):
        loss.backward()
    assert torch.equal(inputs[1].grad, first)


def test_reduction_none_gives_the_same_gradient_in_every_backward():
    inputs, targets = head_inputs(), random_targets(COUNTS, VOCAB)
    losses = fused(*inputs, targets, reduction="none")
    first, second = (torch.autograd.grad(losses.sum(), inputs, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_second_order_gradient_is_refused_here_too(reduction):
    inputs = head_inputs()
    loss = fused(*inputs, random_targets(COUNTS, VOCAB), reduction=reduction)
    with pytest.raises(InvalidInput, match="only first derivatives"):
        torch.autograd.grad(loss.sum(), inputs[:1], create_graph=True)


def test_autocast_casts_hidden_states_and_weight_and_leaves_the_gradients_wide():
    inputs = head_inputs(torch.float32)
    targets = random_targets(COUNTS, VOCAB)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = fused(*inputs, targets)
    narrow = [tensor.detach().bfloat16().requires_grad_() for tensor in inputs]
    wanted = fused(*narrow, targets)
    assert torch.equal(loss, wanted)
    for ours, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(wanted, narrow), strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs.float())


def refused(match, *, targets=None, **changes):
    given = dict(zip(("hidden", "weight", "bias"), head_inputs(torch.float32), strict=True)) | changes
    targets = random_targets(COUNTS, VOCAB) if targets is None else targets
    with pytest.raises(InvalidInput, match=match):
        linear_sparse_kd_loss(targets=targets, **given)


def test_heads_that_do_not_fit():
    refused(r"weight has shape \(31, 5\), hidden \(7, 6\); a weight \[V, 6\]", weight=torch.zeros(VOCAB, 5))
    refused(r"a weight \[V, 6\] with V of at least 1", weight=torch.zeros(0, WIDTH), bias=None)
    refused(r"weight has shape \(31,\); 2 dimension", weight=torch.zeros(VOCAB))
    refused("weight is a list", weight=[[0.0]])
    refused("weight is torch.bfloat16, hidden torch.float32", weight=torch.zeros(VOCAB, WIDTH).bfloat16())
    refused("weight is on meta, hidden on cpu", weight=torch.zeros(VOCAB, WIDTH, device="meta"))
    refused("bias has 30 values, weight 31 rows", bias=torch.zeros(30))
    refused("bias is torch.float64, hidden torch.float32", bias=torch.zeros(VOCAB).double())


def test_hidden_states_that_do_not_fit():
    refused(r"hidden have shape \(6,\); \[T, D\] or \[B, S, D\]", hidden=torch.zeros(WIDTH))
    refused(r"targets have 7 positions, hidden 3 ", hidden=torch.zeros(3, WIDTH))
    refused("hidden are torch.int64", hidden=torch.zeros(7, WIDTH).long())
    refused("a width of at least 1", hidden=torch.zeros(7, 0))


@pytest.mark.parametrize("chunk_bytes", [0, -1, 1.5, True, "1"])
def test_chunk_bytes_that_are_no_size(chunk_bytes):
    refused("chunk_bytes is ", chunk_bytes=chunk_bytes)


def test_ids_and_options_are_checked_as_over_logits():
    beyond = SparseTargets(torch.tensor([0, 1, 1, 1, 1, 1, 1, 1]), torch.tensor([VOCAB]).int(), torch.ones(1))
    refused("token id 31, which does not fit a vocabulary of 31", targets=beyond)
    refused("alpha is 0.5 but there are no labels", alpha=0.5)
    refused("temperature is 2, but the targets", temperature=2.0)


MEMORY = """
import torch
from logitstore.losses import linear_sparse_kd_loss
from logitstore.targets import SparseTargets
T, V, D = 2048, 20_000, 16
hidden, weight = torch.randn(T, D, requires_grad=True), torch.randn(V, D, requires_grad=True)
few = SparseTargets(torch.tensor([0, 1]), torch.zeros(1).int(), torch.ones(1))
linear_sparse_kd_loss(hidden[:1], weight, few).backward()
targets = SparseTargets(torch.arange(T + 1), torch.zeros(T).int(), torch.ones(T))
"""


def test_memory_stays_far_below_the_logits():
    work = "linear_sparse_kd_loss(hidden, weight, targets, chunk_bytes=2**22).backward()"
    assert peak_bytes_of(MEMORY, work) < 40 << 20  # the logits would be 164 MB
