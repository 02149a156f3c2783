"""Sorting many short groups of ids: each id's place is how many others lie below it, counted for 16 ids at once."""

# G groups, N keys

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore.codec.jit import compiled
from logitstore.codec.vectors import AT_ONCE, rank_16

#: larger groups are sorted by comparisons: counting takes the square of their size
LARGEST = np.uint64(64)
#: no key is as large
NOTHING = np.int32(np.iinfo(np.int32).max)


@compiled
def sort_groups(
    keys: NDArray[np.int32],
    sizes: NDArray[np.int64],
    others: NDArray[np.int32],
    ordered: NDArray[np.int32],
    places: NDArray[np.int64],
) -> bool:
    """Put the keys of each group, and one more key where `others` is not NOTHING, into `ordered` in ascending order.

    Args:
        keys: group by group, [N]; 16 more follow, whatever they are.
        sizes: how many keys each group has, [G].
        others: [G].
        ordered: [N, and one more for each other key]; 1 more must follow, which has no meaning afterwards.
        places: how many keys of its group are below each of `others`, [G]; made here.
    Returns:
        False where a group has a key twice; `ordered` has no meaning then.
    """
    ranks = np.empty(LARGEST, np.int32)
    first = start = np.uint64(0)
    wrong = False
    for group in range(len(sizes)):
        num, other = np.uint64(sizes[group]), others[group]
        if num <= np.uint64(1):
            # nobody can guess whether there is one; if not, what is written is overwritten by the next group
            key = keys[first]
            below = np.int64(num) * (key < other)
            ordered[start + np.uint64(key > other)] = key
            wrong |= (np.int64(num) > 0) & (key == other)
        elif num <= LARGEST:
            for nth in range(np.uint64(0), num, np.uint64(AT_ONCE)):
                rank_16(keys, first + nth, first, num, other, ranks, nth)
            below = total = np.int64(0)
            for nth in range(np.uint64(0), num):
                key, rank = keys[first + nth], ranks[nth]
                ordered[start + np.uint64(rank)] = key
                total += np.int64(rank)
                below += key < other
            # with the other key's, ranks of different keys are 0 to num
            wrong |= total + below != np.int64(num * (num + np.uint64(1)) >> np.uint64(1))
        else:
            below, has_twice = _sort_large(keys[first : first + num], other, ordered[start:])
            wrong |= has_twice
        places[group] = below
        # where there is no other key, all are below it, and this is overwritten too
        ordered[start + np.uint64(below)] = other
        first += num
        start += num + np.uint64(other != NOTHING)
    return not wrong


@compiled
def _sort_large(keys: Any, other: Any, ordered: Any) -> Any:
    """Sort a large group; return how many keys are below `other`, and whether one stands twice or is `other`."""
    own = np.sort(keys)
    below, has_twice = np.int64(0), own[0] == other
    for nth in range(len(own)):
        below += own[nth] < other
        ordered[nth + (own[nth] > other)] = own[nth]
    for nth in range(1, len(own)):
        has_twice |= (own[nth] == own[nth - 1]) | (own[nth] == other)
    return below, has_twice
