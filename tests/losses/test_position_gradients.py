"""The gradients of the position losses that are written down, against those of autograd."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from logitstore.losses.options import LossOptions
from logitstore.losses.position_losses import position_gradients, position_losses
from logitstore.losses.positions import make_positions
from logitstore.losses.select_lse_reference import SelectLse, select_lse_reference
from logitstore.targets import SparseTargets
from tests.losses.random_targets import cases


@st.composite
def option_sets(draw):
    temperature = draw(st.sampled_from([1.0, 2.0]))
    missing = ["ignore", "renormalise"] if temperature != 1 else ["ignore", "renormalise", "tail", "tail"]
    return LossOptions(
        alpha=draw(st.sampled_from([0.0, 0.3, 1.0])),
        temperature=temperature,
        label_smoothing=draw(st.sampled_from([0.0, 0.1, 1.0])),
        z_loss=draw(st.sampled_from([0.0, 1e-2])),
        missing_mass=draw(st.sampled_from(missing)),
    )


@settings(max_examples=300, deadline=None)
@given(cases(), option_sets(), st.booleans(), st.booleans(), st.booleans(), st.sampled_from([0.5, 1.0]))
def test_they_are_those_of_autograd(case, options, weighted, padded, upstream, kept):
    targets = SparseTargets(case.targets.offsets, case.targets.ids, case.targets.weights * kept, sampler="top-k")
    weights = torch.linspace(0.0, 2.0, len(case.logits)) if weighted else None
    positions = make_positions(targets.to_padded() if padded else targets, case.labels, weights, options, torch.float64)
    entries = positions.entries.offsets, positions.entries.ids, positions.labels
    parts = select_lse_reference(case.logits.double(), *entries, options.temperature, 0.0, options.needs_mean)
    found = SelectLse(*(part.requires_grad_() for part in parts))
    losses = position_losses(found, positions, options)
    d_losses = torch.linspace(-1.0, 2.0, len(losses), dtype=torch.float64) if upstream else None
    given_losses = torch.ones_like(losses) if d_losses is None else d_losses
    wanted = [torch.zeros_like(part) for part in found]
    if losses.requires_grad:
        wanted = torch.autograd.grad(losses, found, given_losses, allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        grads = position_gradients(found, positions, options, d_losses)
    for name, ours, theirs in zip(SelectLse._fields, grads, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


def test_a_tail_below_the_floor_has_the_gradient_of_the_tangent():
    options = LossOptions(missing_mass="tail")
    targets = SparseTargets(torch.tensor([0, 1]), torch.tensor([0]).int(), torch.tensor([0.9]), sampler="top-k")
    positions = make_positions(targets, None, None, options, torch.float64)
    logits = torch.tensor([[60.0, 0.0, 1.0]], dtype=torch.float64)
    entries = positions.entries.offsets, positions.entries.ids, None
    found = SelectLse(*(part.requires_grad_() for part in select_lse_reference(logits, *entries, 1.0, 0.0, False)))
    losses = position_losses(found, positions, options)
    wanted = torch.autograd.grad(losses.sum(), (found.lse, found.selected))
    with torch.no_grad():
        grads = position_gradients(found, positions, options, None)
    assert float(grads.selected) == pytest.approx(0.1 * 1e4 - 0.9, rel=1e-6)
    torch.testing.assert_close((grads.lse, grads.selected), wanted)
