"""The weights that the stored values stand for."""

# S positions, E entries

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from logitstore.codec.arrays import SequenceArrays, WeightForm
from logitstore.codec.jit import compiled


def entry_weights(arrays: SequenceArrays) -> NDArray[np.float32]:
    """Return the weight of every entry, [E]: what FORMAT.md says of the form, in float64, rounded once to float32."""
    if arrays.form in (WeightForm.PROBABILITIES, WeightForm.FLOAT32):
        return np.asarray(arrays.values, np.float32)
    weights = np.empty(len(arrays.ids), np.float32)
    heads = arrays.counts if arrays.head_counts is None else arrays.head_counts
    _weigh(float(arrays.scale), arrays.counts, heads, arrays.values, weights)
    return weights


@compiled
def _weigh(
    scale: float,
    counts: NDArray[np.int64],
    heads: NDArray[np.int64],
    values: NDArray[np.uint32],
    weights: NDArray[np.float32],
) -> None:
    value = entry = 0
    for position in range(len(counts)):
        left = scale
        for _ in range(heads[position]):
            left -= values[value]
            weights[entry] = values[value] / scale
            value += 1
            entry += 1
        tail = counts[position] - heads[position]
        if tail > 0:
            share = left / (scale * tail)
            for _ in range(tail):
                weights[entry] = share
                entry += 1
