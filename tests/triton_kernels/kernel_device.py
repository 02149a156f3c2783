"""Where the kernel cases run: interpreted on the CPU, or on a GPU; and how far they may be from float64 there."""

from __future__ import annotations

import torch

from logitstore.triton_kernels.configurations import is_interpreted

DEVICE = "cpu" if is_interpreted() else "cuda"

# A gradient is rounded once from float32: at most half a step of its dtype. The interpreter truncates to bfloat16,
# where a GPU rounds, which doubles that.
ROUNDING = {
    torch.float32: 1e-6,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-7 if is_interpreted() else 2.0**-8,
}
# float32 exponentials of arguments up to about 30: 2e-6 of a value of about 2
ABSOLUTE = 5e-6


def assert_rounded(found: torch.Tensor, exact: torch.Tensor) -> None:
    """Check that `found` is `exact` (float64, or rounded to another dtype) but for one rounding to its dtype."""
    torch.testing.assert_close(
        found.cpu().double(), exact.cpu().double(), rtol=1.01 * ROUNDING[found.dtype], atol=ABSOLUTE
    )
