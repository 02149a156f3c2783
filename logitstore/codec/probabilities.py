"""Probabilities as 16-bit codes on a logarithmic grid."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_STEPS_PER_OCTAVE = 2048
LARGEST_CODE = 65_535

#: bound of |decoded - p| / p for p >= 2^-31.99: half a step of the grid, and float32's rounding
PROBABILITY_RELATIVE_ERROR = 2.0 ** (0.5 / _STEPS_PER_OCTAVE) * (1 + 2.0**-24) - 1


def to_codes(probabilities: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the nearest code of each probability in (0, 1]; those below 2^-32 get the last code."""
    steps = np.rint(-_STEPS_PER_OCTAVE * np.log2(probabilities.astype(np.float64)))
    codes: NDArray[np.uint16] = np.minimum(steps, LARGEST_CODE).astype(np.uint16)
    return codes


def from_codes(codes: NDArray[Any]) -> NDArray[np.float32]:
    """Return the probability that each code, 0 to 65,535, stands for."""
    return np.take(_table(), codes)


@cache
def _table() -> NDArray[np.float32]:
    return np.exp2(np.arange(LARGEST_CODE + 1) / -_STEPS_PER_OCTAVE).astype(np.float32)
