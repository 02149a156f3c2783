"""The primitive: every path against the formula in float64, within the yardstick."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from logitstore.errors import InvalidInput
from logitstore.losses import select_lse_cpu as cpu_path
from logitstore.losses.select_lse import _triton_path, path_for, select_lse
from logitstore.losses.select_lse_cpu import select_lse_backward_cpu, select_lse_cpu
from logitstore.losses.select_lse_reference import select_lse_backward_reference, select_lse_reference
from tests.losses.random_targets import cases, random_labels, random_logits, random_targets

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
#: vocabulary: entries of each position. One and two columns, an odd width, real ones; positions without entries
SHAPES = {
    1: [1, 0, 1],
    2: [1, 2, 0],
    251: [5, 1, 0, 17],
    32003: [9, 0, 50],
    50257: [1],
    262144: [12, 0],
}
OPTIONS = {
    "plain": {},
    "temperature": {"temperature": 2.5},
    "softcap": {"softcap": 4.0},
    "mean": {"with_mean": True},
    "all": {"temperature": 0.7, "softcap": 30.0, "with_mean": True},
}


def upstream(found):
    """Gradients at the five results, fixed and of both signs."""
    generator = torch.Generator().manual_seed(9)
    return [torch.randn(len(part), generator=generator, dtype=torch.float64).to(part.dtype) for part in found]


def run(path, logits, targets, labels, *, temperature=1.0, softcap=0.0, with_mean=False, out=None):
    """Return (results, gradient) of one path, called as the operators call it."""
    forward, backward = path
    entries = targets.offsets, targets.ids, labels
    found = forward(logits, *entries, temperature, softcap, with_mean)
    d_lse, d_lse_one, d_mean, d_selected, d_label = upstream(found)
    lse, lse_one, _, selected, label_logits = found
    saved = lse, lse_one, selected, label_logits
    grad = backward(
        logits, *entries, temperature, softcap, *saved, d_lse, d_lse_one, d_mean, d_selected, d_label, out=out
    )
    return found, grad


CPU = select_lse_cpu, select_lse_backward_cpu
REFERENCE = select_lse_reference, select_lse_backward_reference


def exact(logits, targets, labels, **options):
    """The formula in float64, its gradient by autograd alone."""
    leaf = logits.double().requires_grad_()
    entries = targets.offsets, targets.ids, labels
    arguments = options.get("temperature", 1.0), options.get("softcap", 0.0), options.get("with_mean", False)
    found = select_lse_reference(leaf, *entries, *arguments)
    total = sum((part * d).sum() for part, d in zip(found, upstream(found), strict=True))
    (grad,) = torch.autograd.grad(total, leaf)
    return [part.detach() for part in found], grad


def assert_within_yardstick(ours, wanted, plain, name):
    """|ours - exact| <= 2 |plain torch in the same dtype - exact| + 1e-5, at the worst value of each."""
    error = (ours.double() - wanted).abs().max() if len(wanted) else torch.zeros(())
    allowed = 2 * (plain.double() - wanted).abs().max() + 1e-5 if len(wanted) else torch.zeros(())
    assert float(error) <= float(allowed), f"{name}: {float(error):.3g} > {float(allowed):.3g}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("vocab_size", SHAPES)
def test_the_cpu_path_is_within_the_yardstick(vocab_size, options, dtype):
    counts = SHAPES[vocab_size]
    logits = random_logits(len(counts), vocab_size, dtype=dtype)
    targets, labels = random_targets(counts, vocab_size), random_labels(len(counts), vocab_size)
    found, grad = run(CPU, logits, targets, labels, **options)
    wanted, wanted_grad = exact(logits, targets, labels, **options)
    for ours, value, name in zip(found, wanted, found._fields, strict=True):
        assert ours.dtype == torch.float64
        assert_within_yardstick(ours, value, value, name)
    assert grad.dtype == dtype
    # plain torch writes its float64 gradient in the dtype of the logits
    assert_within_yardstick(grad, wanted_grad, wanted_grad.to(dtype), "gradient")


@settings(max_examples=80, deadline=None)
@given(
    cases(),
    st.sampled_from([1.0, 0.4, 3.0]),
    st.sampled_from([0.0, 5.0]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 30, 2**20]),
)
def test_the_cpu_path_equals_the_reference(case, temperature, softcap, with_mean, with_labels, chunk_logits):
    options = {"temperature": temperature, "softcap": softcap, "with_mean": with_mean}
    logits, labels = case.logits.double(), case.labels if with_labels else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_path, "CHUNK_LOGITS", chunk_logits)
        found, grad = run(CPU, logits, case.targets, labels, **options)
    wanted, wanted_grad = run(REFERENCE, logits, case.targets, labels, **options)
    for ours, value in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, value, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(grad, wanted_grad, atol=1e-12, rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(cases(), st.sampled_from([1.0, 3.0]), st.sampled_from([0.0, 5.0]))
def test_the_references_gradient_is_that_of_autograd(case, temperature, softcap):
    options = {"temperature": temperature, "softcap": softcap, "with_mean": True}
    logits = case.logits.double()
    _, grad = run(REFERENCE, logits, case.targets, case.labels, **options)
    torch.testing.assert_close(grad, exact(logits, case.targets, case.labels, **options)[1], atol=1e-12, rtol=1e-12)


def test_the_operators_gradient_equals_finite_differences():
    targets, labels = random_targets([3, 0, 2], 6), torch.tensor([1, 2, -100])
    leaf = random_logits(3, 6, dtype=torch.float64).requires_grad_()
    for options in OPTIONS.values():
        assert torch.autograd.gradcheck(
            lambda z, chosen=options: select_lse(z, targets.offsets, targets.ids, labels, **chosen), (leaf,)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sure", [0.99, 0.999, 0.99999])
def test_the_gradient_of_a_sure_student_is_rounded_once(sure, dtype):
    # p - w near 0: reading back a bf16 gradient to add -w would be 20 % off at .99 and 100 % at .999
    vocab_size = 251
    logits = torch.zeros(2, vocab_size)
    logits[:, 7] = torch.logit(torch.tensor(sure)) + torch.tensor(vocab_size - 1.0).log()
    logits = logits.to(dtype)
    targets = random_targets([1, 1], vocab_size)
    targets.ids.fill_(7)
    ones = torch.ones(2, dtype=torch.float64)
    none = torch.empty(0, dtype=torch.float64)
    found = select_lse_cpu(logits, targets.offsets, targets.ids, None, 1.0, 0.0, False)
    saved = found.lse, none, found.selected, none
    grad = select_lse_backward_cpu(
        logits, targets.offsets, targets.ids, None, 1.0, 0.0, *saved, ones, none, none, -ones, none
    )
    wanted = torch.softmax(logits.double(), -1)
    wanted[:, 7] -= 1
    rounding = {torch.float32: 1e-6, torch.bfloat16: 2.0**-8}[dtype]
    # a float32 sum of 1 and 250 values of 4e-8 is off by up to 1e-6, in torch's softmax too
    torch.testing.assert_close(grad.double(), wanted, rtol=rounding, atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_gradient_may_be_written_over_the_logits(options, dtype):
    logits, labels = random_logits(5, 40, dtype=dtype), random_labels(5, 40)
    targets = random_targets([3, 0, 1, 7, 2], 40)
    _, wanted = run(CPU, logits, targets, labels, **options)
    buffer = logits.clone()
    found = select_lse_cpu(buffer, targets.offsets, targets.ids, labels, *_positional(options))
    d_lse, d_lse_one, d_mean, d_selected, d_label = upstream(found)
    saved = found.lse, found.lse_one, found.selected, found.label_logits
    result = select_lse_backward_cpu(
        buffer, targets.offsets, targets.ids, labels, *_positional(options)[:2], *saved,
        d_lse, d_lse_one, d_mean, d_selected, d_label, out=buffer,
    )  # fmt: skip
    assert result is buffer
    assert torch.equal(buffer, wanted)


def _positional(options):
    return options.get("temperature", 1.0), options.get("softcap", 0.0), options.get("with_mean", False)


@pytest.mark.parametrize("path", [CPU, REFERENCE], ids=["cpu", "reference"])
def test_every_value_of_the_gradient_is_written(path):
    logits, targets = random_logits(4, 30), random_targets([0, 2, 0, 3], 30)
    out = torch.full((4, 30), float("nan"))
    _, grad = run(path, logits, targets, None, out=out)
    assert grad is out
    assert bool(out.isfinite().all())
    assert bool((out[[0, 2]] == 0).all())


@pytest.mark.parametrize("path", [CPU, REFERENCE], ids=["cpu", "reference"])
def test_infinite_logits_are_as_logsumexp_has_them(path):
    infinity = float("inf")
    logits = torch.tensor([[0.0, -infinity, 1.0], [-infinity] * 3, [0.0, infinity, 1.0]])
    targets = random_targets([1, 1, 1], 3)
    found = path[0](logits, targets.offsets, targets.ids, None, 1.0, 0.0, False)
    torch.testing.assert_close(found.lse, torch.logsumexp(logits.double(), -1), atol=1e-6, rtol=1e-6)
    _, grad = run(path, logits, targets, None)
    assert grad[0].isfinite().all()


@pytest.mark.parametrize("path", [CPU, REFERENCE], ids=["cpu", "reference"])
def test_repeated_ids_and_a_label_among_them_add_up(path):
    logits = random_logits(1, 5, dtype=torch.float64)
    targets = random_targets([3], 5)
    targets.ids.copy_(torch.tensor([2, 2, 4]))
    labels = torch.tensor([2])
    torch.testing.assert_close(run(path, logits, targets, labels)[1], exact(logits, targets, labels)[1])


@pytest.mark.parametrize("layout", ["columns apart", "rows apart", "sliced"])
def test_strides_do_not_change_the_result(layout):
    logits, targets, labels = random_logits(4, 9), random_targets([2, 0, 1, 3], 9), random_labels(4, 9)
    if layout == "columns apart":
        strided = logits.t().contiguous().t()
    elif layout == "rows apart":
        strided = torch.cat([logits, logits], 1)[:, :9]
    else:
        strided = torch.cat([logits, logits], 1).view(4, 2, 9)[:, 1]
    found, grad = run(CPU, logits, targets, labels)
    strided_found, strided_grad = run(CPU, strided, targets, labels)
    assert all(torch.equal(a, b) for a, b in zip(found, strided_found, strict=True))
    assert torch.equal(grad, strided_grad)


def test_two_runs_give_the_same_bits():
    logits, targets = random_logits(40, 3001), random_targets([20] * 40, 3001)
    (first, grad), (second, again) = (run(CPU, logits, targets, None) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(grad, again)


@pytest.mark.parametrize("options", [OPTIONS["plain"], OPTIONS["all"]], ids=["plain", "all"])
@pytest.mark.parametrize("counts", [[2, 0, 3], []], ids=["three", "none"])
def test_opcheck(counts, options):
    targets, labels = random_targets(counts, 9), random_labels(len(counts), 9)
    arguments = targets.offsets, targets.ids, labels, *_positional(options)
    for dtype in (torch.float32, torch.bfloat16):
        logits = random_logits(len(counts), 9, dtype=dtype)
        torch.library.opcheck(torch.ops.logitstore.select_lse.default, (logits.requires_grad_(), *arguments))
        found = select_lse_cpu(logits.detach(), *arguments)
        saved = found.lse, found.lse_one, found.selected, found.label_logits
        torch.library.opcheck(
            torch.ops.logitstore.select_lse_backward.default,
            (logits.detach(), *arguments[:-1], *saved, *upstream(found)),
        )


def test_a_second_order_gradient_is_refused():
    targets = random_targets([2], 5)
    leaf = random_logits(1, 5).requires_grad_()
    found = select_lse(leaf, targets.offsets, targets.ids)
    (grad,) = torch.autograd.grad(found.lse.sum(), leaf, create_graph=True)
    with pytest.raises(InvalidInput, match="only first derivatives"):
        torch.autograd.grad(grad.sum(), leaf)


def test_a_device_without_a_kernel_gets_the_reference():
    targets = random_targets([2], 5)
    forward, backward = path_for(random_logits(1, 5).to("meta"))
    assert (forward, backward) == REFERENCE
    assert path_for(random_logits(1, 5)).forward is select_lse_cpu
    found = select_lse(random_logits(1, 5).to("meta"), targets.offsets.to("meta"), targets.ids.to("meta"))
    assert found.lse.dtype == torch.float32
    assert found.selected.shape == (2,)


def test_the_kernels_take_what_the_reference_takes():
    pytest.importorskip("triton")
    forward, backward = _triton_path()
    for kernel, reference in ((forward, select_lse_reference), (backward, select_lse_backward_reference)):
        wanted = list(inspect.signature(reference).parameters)
        assert list(inspect.signature(kernel).parameters)[: len(wanted)] == wanted
