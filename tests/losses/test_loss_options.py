"""The options of the losses, each against the formula it stands for, and all together against the reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from logitstore.errors import InvalidInput
from logitstore.losses import select_lse_cpu as cpu_path
from logitstore.losses import sparse_kd_loss
from logitstore.losses.options import LossOptions
from logitstore.losses.position_losses import TAIL_FLOOR
from logitstore.losses.positions import make_positions
from logitstore.losses.reference import reference_losses
from logitstore.targets import SparseTargets
from tests.losses.random_targets import cases, loss_and_grad, random_labels, random_logits, random_targets


def top_k(counts, vocab_size, *, kept=0.8, **fields):
    """Targets whose weights sum to `kept` at each position with entries."""
    targets = random_targets(counts, vocab_size, sampler="top-k", **fields)
    targets.weights.mul_(kept)
    return targets


@st.composite
def option_sets(draw):
    temperature = draw(st.sampled_from([1.0, 1.0, 2.0]))
    missing = ["ignore", "renormalise"] if temperature != 1 else ["ignore", "renormalise", "tail"]
    return {
        "alpha": draw(st.sampled_from([0.0, 0.3, 1.0])),
        "temperature": temperature,
        "reduction": draw(st.sampled_from(["none", "sum", "mean"])),
        "label_smoothing": draw(st.sampled_from([0.0, 0.1, 1.0])),
        "z_loss": draw(st.sampled_from([0.0, 1e-2])),
        "softcap": draw(st.sampled_from([None, 6.0])),
        "missing_mass": draw(st.sampled_from(missing)),
    }


@settings(max_examples=200, deadline=None)
@given(cases(), option_sets(), st.booleans(), st.booleans())
def test_the_loss_equals_the_reference_under_any_options(case, options, weighted, padded):
    targets = SparseTargets(case.targets.offsets, case.targets.ids, case.targets.weights, sampler="top-k")
    position_weights = torch.linspace(0.0, 2.0, len(case.logits)) if weighted else None
    logits = case.logits.double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_path, "CHUNK_LOGITS", 50)  # several chunks
        loss, grad = loss_and_grad(
            logits,
            targets.to_padded() if padded else targets,
            case.labels,
            position_weights=position_weights,
            **options,
        )
    wanted, wanted_grad = reference(logits, targets, case.labels, position_weights, **options)
    # the tail's mass comes as 1 - sum of the rest here: 2e-16 off, divided by a floor of 1e-4, twice in the gradient
    torch.testing.assert_close(loss, wanted, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(grad, wanted_grad, atol=1e-9, rtol=1e-9)


def reference(logits, targets, labels, position_weights, **options):
    chosen = LossOptions(**options)
    positions = make_positions(targets, labels, position_weights, chosen, torch.float64)
    leaf = logits.detach().clone().requires_grad_()
    losses = reference_losses(leaf, positions, chosen)
    if chosen.reduction != "none":
        losses = losses.sum() / (positions.num_targets if chosen.reduction == "mean" else 1)
    (grad,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), grad


def test_label_smoothing_is_that_of_torch():
    logits, labels = random_logits(6, 33, dtype=torch.float64), random_labels(6, 33, ignored=0)
    loss, grad = loss_and_grad(logits, random_targets([2] * 6, 33), labels, alpha=0.0, label_smoothing=0.2)
    leaf = logits.clone().requires_grad_()
    wanted = functional.cross_entropy(leaf, labels, label_smoothing=0.2)
    torch.testing.assert_close(loss, wanted.detach())
    torch.testing.assert_close(grad, torch.autograd.grad(wanted, leaf)[0])


def test_the_z_loss_is_the_squared_log_sum_exp_at_temperature_1_whatever_alpha():
    targets = random_targets([2, 0, 3], 9, teacher_temperature=2.0)
    logits, labels = random_logits(3, 9, dtype=torch.float64), random_labels(3, 9)
    options = {"temperature": 2.0, "reduction": "none"}
    for alpha in (0.0, 0.5, 1.0):
        without = sparse_kd_loss(logits, targets, labels, alpha, **options)
        with_z = sparse_kd_loss(logits, targets, labels, alpha, z_loss=0.1, **options)
        wanted = 0.1 * torch.logsumexp(logits, -1) ** 2
        wanted[1] = 0  # has no target
        torch.testing.assert_close(with_z - without, wanted)


def test_the_softcap_bends_the_logits_before_all_else():
    targets, labels = random_targets([2, 0, 3], 9), random_labels(3, 9)
    logits = random_logits(3, 9, dtype=torch.float64, scale=20.0)
    options = {"alpha": 0.4, "label_smoothing": 0.1, "z_loss": 0.01}
    leaf = logits.clone().requires_grad_()
    wanted = sparse_kd_loss(5.0 * torch.tanh(leaf / 5.0), targets, labels, **options)
    loss, grad = loss_and_grad(logits, targets, labels, softcap=5.0, **options)
    torch.testing.assert_close(loss, wanted.detach())
    torch.testing.assert_close(grad, torch.autograd.grad(wanted, leaf)[0], atol=1e-14, rtol=1e-9)


def test_renormalised_weights_sum_to_1():
    logits = random_logits(3, 9, dtype=torch.float64)
    targets = top_k([2, 0, 3], 9, kept=0.7)
    whole = SparseTargets(targets.offsets, targets.ids, targets.weights / 0.7, sampler="top-k")
    for form in (targets, targets.to_padded(4)):
        loss, grad = loss_and_grad(logits, form, missing_mass="renormalise")
        wanted, wanted_grad = loss_and_grad(logits, whole)
        torch.testing.assert_close(loss, wanted, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(grad, wanted_grad, atol=1e-6, rtol=1e-6)


def test_the_tail_bucket_is_cross_entropy_over_the_kept_tokens_and_one_more():
    logits = random_logits(3, 9, dtype=torch.float64, scale=1.0)
    targets = top_k([2, 0, 3], 9, kept=0.7)
    for form in (targets, targets.to_padded(4)):
        loss, grad = loss_and_grad(logits, form, missing_mass="tail", reduction="none")
        leaf = logits.clone().requires_grad_()
        q, dense = torch.softmax(leaf, -1), targets.to_dense(9).double()
        kept = dense > 0
        buckets = -(dense * q.log()).sum(-1) - (1 - dense.sum(-1)) * (q * ~kept).sum(-1).log()
        wanted = torch.where(kept.any(-1), buckets, 0.0)
        torch.testing.assert_close(loss, wanted.detach())
        torch.testing.assert_close(grad, torch.autograd.grad(wanted.sum(), leaf)[0])


def test_a_student_that_equals_the_teacher_has_no_gradient_with_the_tail_bucket_and_has_one_without():
    logits = random_logits(2, 12, dtype=torch.float64)
    probabilities, ids = torch.softmax(logits, -1).topk(4)
    targets = SparseTargets(
        torch.tensor([0, 4, 8]), ids.int().flatten(), probabilities.float().flatten(), sampler="top-k"
    )
    assert float(loss_and_grad(logits, targets, missing_mass="tail")[1].abs().max()) < 1e-7
    assert float(loss_and_grad(logits, targets, missing_mass="ignore")[1].abs().max()) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_tail_below_the_floor_keeps_a_finite_gradient_that_raises_it(dtype):
    logits = torch.tensor([[60.0, 0.0, 1.0]], dtype=dtype)
    targets = top_k([1], 3, kept=0.9)
    targets.ids.fill_(0)
    loss, grad = loss_and_grad(logits, targets, missing_mass="tail")
    # 1 - sum q is off by 6e-8 in float32, and is divided by the floor
    assert float(loss) == pytest.approx(0.1 * (1 - float(torch.tensor(TAIL_FLOOR).log())), rel=1e-4)
    assert bool(grad.isfinite().all())
    raised, _ = loss_and_grad(logits - torch.tensor([[50.0, 0.0, 0.0]], dtype=dtype), targets, missing_mass="tail")
    assert raised < loss


def test_position_weights_scale_losses_and_leave_the_divisor_alone():
    logits, targets, labels = random_logits(4, 9), random_targets([2, 0, 3, 1], 9), random_labels(4, 9)
    weights = torch.tensor([2.0, 5.0, 0.0, 0.5])
    plain = sparse_kd_loss(logits, targets, labels, 0.5, reduction="none")
    weighted = sparse_kd_loss(logits, targets, labels, 0.5, reduction="none", position_weights=weights)
    torch.testing.assert_close(weighted, plain * weights)
    mean = sparse_kd_loss(logits, targets, labels, 0.5, position_weights=weights.double())
    assert float(mean) == pytest.approx(float((plain * weights).sum()) / 3, rel=1e-6)
    by_sequence = sparse_kd_loss(logits.view(2, 2, 9), targets, labels, 0.5, position_weights=weights.view(2, 2))
    assert torch.equal(by_sequence, sparse_kd_loss(logits, targets, labels, 0.5, position_weights=weights))


def test_position_weights_are_constants():
    weights = torch.ones(1, requires_grad=True)
    assert not sparse_kd_loss(random_logits(1, 4), random_targets([1], 4), position_weights=weights).requires_grad


LOGITS, TARGETS, LABELS = random_logits(3, 7), top_k([2, 0, 3], 7), torch.tensor([1, -100, 6])


def refused(match, targets=TARGETS, labels=LABELS, **options):
    with pytest.raises(InvalidInput, match=match):
        sparse_kd_loss(LOGITS, targets, labels, **options)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("label_smoothing", [-0.1, 1.1, float("nan"), "1", True, None]),
        ("z_loss", [-1e-3, float("inf"), float("nan"), "1", True, None]),
        ("softcap", [0, -1.0, float("inf"), float("nan"), "1", True]),
        ("missing_mass", ["ghost", None]),
    ],
)
def test_options_out_of_range(name, bad):
    for value in bad:
        refused(f"{name} is {value!r}; ", **{name: value})


def test_label_smoothing_without_labels():
    refused("label_smoothing is 0.1 but there are no labels", labels=None, label_smoothing=0.1)


@pytest.mark.parametrize("sampler", ["random-sampling", "threshold", None])
@pytest.mark.parametrize("missing_mass", ["renormalise", "tail"])
def test_missing_mass_of_an_unbiased_sample(missing_mass, sampler):
    targets = random_targets([2, 0, 3], 7, sampler=sampler)
    refused(f'missing_mass is "{missing_mass}".*renormalising it would bias', targets, missing_mass=missing_mass)


@pytest.mark.parametrize("captured", [1.0, 2.0])
def test_the_tail_bucket_at_another_temperature(captured):
    targets = top_k([2, 0, 3], 7, teacher_temperature=captured)
    refused('missing_mass is "tail" and temperature 2', targets, missing_mass="tail", temperature=2.0)


@pytest.mark.parametrize("missing_mass", ["renormalise", "tail"])
def test_kl_of_weights_that_are_changed_here(missing_mass):
    targets = top_k([2, 0, 3], 7, teacher_entropy=torch.ones(3))
    refused("teacher_entropy belongs to the full teacher", targets, missing_mass=missing_mass, value="kl")


@pytest.mark.parametrize("shape", [(2,), (3, 1), ()])
def test_position_weights_of_another_shape(shape):
    refused(r"position_weights have shape .* \(3,\) were wanted", position_weights=torch.ones(shape))


def test_position_weights_of_another_kind():
    refused("position_weights are a list", position_weights=[1.0] * 3)
    refused("position_weights are torch.int64; a floating dtype", position_weights=torch.ones(3).long())
    refused("position_weights are on meta, student_logits on cpu", position_weights=torch.ones(3, device="meta"))
    refused("position_weights hold NaN or an infinity", position_weights=torch.tensor([1.0, float("nan"), 1.0]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(bad):
    targets = top_k([2, 0, 3], 7)
    targets.weights[3] = bad
    for form in (targets, targets.to_padded()):
        refused(f"targets.weights hold {bad}; finite weights", form)


def test_repeated_ids_are_found_in_debug_mode(monkeypatch):
    targets = top_k([2, 0, 3], 7)
    targets.ids[3] = targets.ids[2]
    match = f"token id {int(targets.ids[2])} more than once at position 2"
    for form in (targets, targets.to_padded(5)):
        sparse_kd_loss(LOGITS, form)
        refused(match, form, debug=True)
        monkeypatch.setenv("LOGITSTORE_DEBUG", "1")
        refused(match, form)
        sparse_kd_loss(LOGITS, form, debug=False)
        monkeypatch.setenv("LOGITSTORE_DEBUG", "0")
        sparse_kd_loss(LOGITS, form)


def test_unique_ids_pass_debug_mode_also_where_positions_share_them():
    targets = SparseTargets(torch.tensor([0, 1, 1, 2]), torch.tensor([4, 4]).int(), torch.ones(2))
    for form in (targets, targets.to_padded(2)):
        assert sparse_kd_loss(LOGITS, form, debug=True) > 0
