"""Probabilities as whole numbers: the cube root on a grid."""

# E entries

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def to_codes(probabilities: NDArray[np.float32], scale: int) -> NDArray[np.int64]:
    """Return the code of each probability in (0, 1], [E], 1 to `scale`: `scale · p^(1/3)`, rounded.

    Half-way cases are compared exactly in float64, so that every machine gives the same codes.
    """
    wide = probabilities.astype(np.float64)
    # the guess is off by less than 1, whatever the machine's cbrt does
    codes = np.floor(scale * np.cbrt(wide)).astype(np.int64)
    codes += _cube((codes + 0.5) / scale) < wide
    codes -= _cube((codes - 0.5) / scale) >= wide
    return np.asarray(np.clip(codes, 1, scale))


def from_codes(codes: NDArray[Any], scale: int) -> NDArray[np.float32]:
    """Return the probability that each code, 1 to `scale`, stands for: the float32 nearest to (code / scale)^3."""
    return np.take(_table(scale), codes)


def probability_error(probabilities: ArrayLike, scale: int) -> NDArray[np.float64]:
    """Return a bound of |decoded - p| for probabilities stored with `scale`, of their shape.

    A cube root is stored with an error of at most half a step, at the lower end of a whole one (codes begin at 1).
    """
    wide = np.asarray(probabilities, np.float64)
    roots = np.cbrt(wide)
    half_step = np.maximum(0.5, 1 - roots * scale) / scale
    error = (3 * roots * roots + 3 * roots * half_step + half_step * half_step) * half_step
    return np.asarray(error + 2.0**-24 * (wide + 1e-6))


@lru_cache(maxsize=8)
def _table(scale: int) -> NDArray[np.float32]:
    return _cube(np.arange(scale + 1) / scale).astype(np.float32)


def _cube(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    return numbers * numbers * numbers
