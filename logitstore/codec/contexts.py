"""Contexts: which frequencies a number is coded with. They follow from what is decoded before the number."""

# S positions, G groups (a position's entries; with head counts its head, then its tail)

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore.codec.arrays import WeightForm

#: sizes of 0 to 65,535 in classes that are finer where most groups are
_SIZE_CLASS_STARTS = np.array([0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 23, 31, 42])
NUM_SIZE_CLASSES = len(_SIZE_CLASS_STARTS)
SIZE_CLASSES: NDArray[np.uint8] = (
    np.searchsorted(_SIZE_CLASS_STARTS, np.arange(65_536), side="right") - 1  # one look-up per group
).astype(np.uint8)
SMALLEST_OF_SIZE_CLASS = _SIZE_CLASS_STARTS

#: contexts of one kind that depend on a position share a width
CONTEXTS_A_KIND = 24

# first context of each kind of number
COUNT = 0
HEAD_COUNT = COUNT + 1
PLACE = HEAD_COUNT + CONTEXTS_A_KIND
TOKEN_CELL = PLACE + CONTEXTS_A_KIND
#: by group (first, second), by first cell or gap, by size class of what is left of the group
CELL = TOKEN_CELL + 1
LEVEL = CELL + 4 * NUM_SIZE_CLASSES
#: the label's value has the second half
VALUE = LEVEL + 1
NUM_CONTEXTS = VALUE + 2 * CONTEXTS_A_KIND

#: place of a position's label: not among its entries, in the first group, in the second
NOWHERE, IN_FIRST, IN_SECOND = 0, 1, 2


def head_count_contexts(counts: NDArray[np.int64]) -> NDArray[Any]:
    """Return the context of each position's head count, [S]."""
    return np.asarray(HEAD_COUNT + np.minimum(counts, CONTEXTS_A_KIND - 1))


def place_contexts(counts: NDArray[np.int64], head_counts: NDArray[np.int64] | None) -> NDArray[Any]:
    """Return the context of each position's label place, [S]."""
    if head_counts is None:
        return np.asarray(PLACE + np.minimum(counts, CONTEXTS_A_KIND - 1))
    return np.asarray(PLACE + 3 * np.minimum(head_counts, 7) + np.minimum(counts - head_counts, 2))


def cell_context(group: int, is_gap: bool, left: int) -> int:
    """Return the context of a cell: of the first id of a group, or a gap; `left` entries are still to come, this one too."""
    return CELL + NUM_SIZE_CLASSES * (2 * group + is_gap) + int(SIZE_CLASSES[left])


def value_contexts(
    form: WeightForm, counts: NDArray[np.int64], head_counts: NDArray[np.int64] | None, levels: NDArray[Any] | None
) -> NDArray[Any]:
    """Return the context of each position's values, [S]; the label's value has CONTEXTS_A_KIND more."""
    if form == WeightForm.PROBABILITIES:
        return VALUE + np.asarray(levels, np.int64)
    if head_counts is None:
        return VALUE + SIZE_CLASSES[counts].astype(np.int64)
    return np.asarray(VALUE + np.minimum(head_counts, 11) + 12 * (counts > head_counts))
