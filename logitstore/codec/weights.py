"""The weights that the stored values stand for."""

# S positions, E entries

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from logitstore.codec.arrays import SequenceArrays, WeightForm
from logitstore.codec.jit import compiled
from logitstore.codec.vectors import AT_ONCE, copy_16, fill_16


def entry_weights(arrays: SequenceArrays) -> NDArray[np.float32]:
    """Return the weight of every entry, [E]: what FORMAT.md says of the form, in float64, rounded once to float32."""
    if arrays.form in (WeightForm.PROBABILITIES, WeightForm.FLOAT32):
        return np.asarray(arrays.values, np.float32)
    if arrays.head_counts is None:
        weights = np.empty(len(arrays.ids), np.float32)
        _divide(float(arrays.scale), arrays.values, weights)
        return weights
    weights = np.empty(len(arrays.ids) + 2 * AT_ONCE, np.float32)
    _spread(float(arrays.scale), arrays.counts, arrays.head_counts, arrays.values, weights)
    return weights[: len(arrays.ids)]


@compiled
def _divide(scale: float, values: NDArray[np.uint32], weights: NDArray[np.float32]) -> None:
    for nth in range(len(values)):
        weights[nth] = values[nth] / scale


@compiled
def _spread(
    scale: float,
    counts: NDArray[np.int64],
    heads: NDArray[np.int64],
    values: NDArray[np.uint32],
    weights: NDArray[np.float32],
) -> None:
    """Put the weights of each head and, behind them, of its tail into `weights`, 16 at once.

    What is written beyond a head or a tail is overwritten by what comes next; 32 more weights give room for it. The
    first 16 are written even where there are none, as nobody can guess that.
    """
    shares, running = np.empty(len(values) + AT_ONCE, np.float32), np.zeros(len(values) + 1, np.int64)
    _divide(scale, values, shares)
    for nth in range(len(values)):
        running[nth + 1] = running[nth] + np.int64(values[nth])
    value = entry = np.uint64(0)
    for position in range(len(counts)):
        head, tail = np.uint64(heads[position]), np.uint64(counts[position] - heads[position])
        left = scale - (running[value + head] - running[value])
        copy_16(weights, entry, shares, value)
        for nth in range(np.uint64(AT_ONCE), head, np.uint64(AT_ONCE)):
            copy_16(weights, entry + nth, shares, value + nth)
        value += head
        entry += head
        share = np.float32(left / (scale * float(max(np.int64(tail), np.int64(1)))))
        fill_16(weights, entry, share)
        for nth in range(np.uint64(AT_ONCE), tail, np.uint64(AT_ONCE)):
            fill_16(weights, entry + nth, share)
        entry += tail
