"""Sorting many short segments at once: networks whose comparisons run over 64 segments side by side."""

# G segments

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore.codec.jit import compiled

_SIDE_BY_SIDE = 64
#: segments up to 2^6 keys are sorted by networks, of 2, 4, 8, ... 64 keys
_LARGEST_NETWORK = 6
_LAST_KEY = np.int32(np.iinfo(np.int32).max)


def _batcher_network(width: int) -> list[tuple[int, int]]:
    """Return the comparisons of Batcher's odd-even merge sort for `width` keys, a power of two."""
    pairs = []
    merged = 1
    while merged < width:
        distance = merged
        while distance:
            for start in range(distance % merged, width - distance, 2 * distance):
                pairs += [
                    (low, low + distance)
                    for low in range(start, min(start + distance, width - distance))
                    if low // (2 * merged) == (low + distance) // (2 * merged)
                ]
            distance //= 2
        merged *= 2
    return pairs


_NETWORKS = [_batcher_network(1 << power) for power in range(_LARGEST_NETWORK + 1)]
#: the comparisons of all networks, and where each network begins
_COMPARISONS = np.array([pair for network in _NETWORKS for pair in network], np.int64)
_NETWORK_STARTS = np.cumsum([0] + [len(network) for network in _NETWORKS])


#: segments with more keys than networks have share a bucket behind the others
_LARGE = (1 << _LARGEST_NETWORK) + 1


@compiled
def order_by_size(sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the segments in the order of their sizes, [G], and where in it the segments of each size begin, [67].

    Sizes from 65 on count as one. Loops over segments go in this order, so that the processor can guess their ends.
    """
    buckets = np.zeros(_LARGE + 2, np.int64)
    for segment in range(len(sizes)):
        buckets[min(sizes[segment], _LARGE) + 1] += 1
    buckets = np.cumsum(buckets)
    order, filled = np.empty(len(sizes), np.int64), buckets.copy()
    for segment in range(len(sizes)):
        bucket = min(sizes[segment], _LARGE)
        order[filled[bucket]] = segment
        filled[bucket] += 1
    return order, buckets


@compiled
def sort_segments(
    keys: NDArray[np.int32],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    order: NDArray[np.int64],
    buckets: NDArray[np.int64],
) -> None:
    """Sort keys[starts[g] : starts[g] + sizes[g]] for each segment g, in place; `order_by_size` gives the last two."""
    for nth in range(buckets[2], buckets[3]):
        start = starts[order[nth]]
        a, b = keys[start], keys[start + 1]
        keys[start], keys[start + 1] = min(a, b), max(a, b)
    for nth in range(buckets[_LARGE], buckets[_LARGE + 1]):
        start = starts[order[nth]]
        keys[start : start + sizes[order[nth]]].sort()
    lanes = np.empty((1 << _LARGEST_NETWORK, _SIDE_BY_SIDE), np.int32)
    for power in range(2, _LARGEST_NETWORK + 1):
        end = buckets[(1 << power) + 1]
        for first in range(buckets[(1 << (power - 1)) + 1], end, _SIDE_BY_SIDE):
            _sort_side_by_side(keys, starts, sizes, order[first : min(first + _SIDE_BY_SIDE, end)], lanes, power)


@compiled
def _sort_side_by_side(keys: Any, starts: Any, sizes: Any, chosen: Any, lanes: Any, power: Any) -> None:
    for lane in range(len(chosen)):
        start, size = starts[chosen[lane]], sizes[chosen[lane]]
        for place in range(size):
            lanes[place, lane] = keys[start + place]
        for place in range(size, 1 << power):
            lanes[place, lane] = _LAST_KEY
    for comparison in range(_NETWORK_STARTS[power], _NETWORK_STARTS[power + 1]):
        low, high = lanes[_COMPARISONS[comparison, 0]], lanes[_COMPARISONS[comparison, 1]]
        for lane in range(_SIDE_BY_SIDE):
            a, b = low[lane], high[lane]
            low[lane], high[lane] = min(a, b), max(a, b)
    for lane in range(len(chosen)):
        start, size = starts[chosen[lane]], sizes[chosen[lane]]
        for place in range(size):
            keys[start + place] = lanes[place, lane]
