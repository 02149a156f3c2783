"""How far a loss may be from the dense float64 oracle: one table, a reason beside each number."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tolerance:
    """Absolute and relative part, for values and for gradients."""

    value_atol: float
    value_rtol: float
    grad_atol: float
    grad_rtol: float


# The oracle gets the same rounded logits, so that only the computation and the storing of the gradient differ.
# The largest gradient value of a position is about sum w <= 2 (times 1/temperature), hence the absolute parts.
TOLERANCES = {
    # values about 10 with eps 1.2e-7, a few operations deep: 1e-6 each; the gradient is a difference of values <= 2
    torch.float32: Tolerance(value_atol=5e-6, value_rtol=2e-6, grad_atol=1e-6, grad_rtol=1e-5),
    # eps 2.2e-16; the margin is for sums over up to 32,003 columns
    torch.float64: Tolerance(value_atol=1e-12, value_rtol=1e-12, grad_atol=1e-13, grad_rtol=1e-12),
    # values are computed in float32; the gradient is rounded once, to 8 significant bits: at most 2^-8 = 3.91e-3
    torch.bfloat16: Tolerance(value_atol=5e-6, value_rtol=2e-6, grad_atol=1e-6, grad_rtol=3.92e-3),
    # the same with 11 bits: at most 2^-11 = 4.88e-4; below 6e-5 float16 has fixed steps of 6e-8
    torch.float16: Tolerance(value_atol=5e-6, value_rtol=2e-6, grad_atol=1e-6, grad_rtol=4.9e-4),
}


def assert_close_to_oracle(value, grad, wanted_value, wanted_grad, *, dtype: torch.dtype) -> None:
    """Compare a loss and its gradient with the oracle's, both in float64."""
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(
        value.double(), wanted_value, atol=tolerance.value_atol, rtol=tolerance.value_rtol, msg=lambda m: f"value: {m}"
    )
    torch.testing.assert_close(
        grad.double(), wanted_grad, atol=tolerance.grad_atol, rtol=tolerance.grad_rtol, msg=lambda m: f"gradient: {m}"
    )
