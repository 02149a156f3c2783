"""Between ascending ids and what is stored of them: the first id of each group, and gaps."""

# S positions, E entries, G groups that are not empty

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore.codec.arrays import ID_LIMIT, check_ids, position_of
from logitstore.errors import InvalidInput


def group_lengths(counts: NDArray[np.int64], head_counts: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Return the entries of each group that is not empty, [G]: a position's, or its head's and its tail's."""
    if head_counts is None:
        return counts[counts > 0]
    both = np.stack([head_counts, counts - head_counts], axis=1).reshape(-1)
    return both[both > 0]


def split_ids(
    ids: NDArray[np.int32], lengths: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the first id of each group, [G], and each later id's gap to the one before it less 1, [E - G].

    Raises:
        InvalidInput: ids do not rise strictly within a group; the position is named by way of `counts` [S].
    """
    first = _first_of_group(lengths, len(ids))
    gaps = np.diff(ids, prepend=ids[:1]) - 1
    bad = (gaps < 0) & ~first
    if bad.any():
        entry = int(bad.argmax())
        raise InvalidInput(
            f"position {position_of(entry, counts)} has token id {ids[entry]} after {ids[entry - 1]}; ids that rise "
            "strictly were wanted (with head counts: in the head and in the tail). Sort them, join equal ones."
        )
    return ids[first], gaps[~first]


def join_ids(
    first_ids: NDArray[Any], later_gaps: NDArray[Any], lengths: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Undo `split_ids`.

    Raises:
        InvalidInput: an id would be 2^20 or more.
    """
    num_entries = len(first_ids) + len(later_gaps)
    if first_ids.max(initial=0) >= ID_LIMIT or later_gaps.max(initial=0) >= ID_LIMIT:
        raise InvalidInput(f"a first id or a gap is {ID_LIMIT} or more; below that was wanted.")
    if num_entries == 0:
        return np.empty(0, np.int32)
    first = _first_of_group(lengths, num_entries)
    # A running sum modulo 2^32 over all groups; each group then gets its own start back. No id can wrap unseen: a step
    # is at most 2^20, so the first id of a group that leaves the range lands in [2^20, 2^21], where the check finds it.
    steps = np.empty(num_entries, np.uint32)
    steps[first] = 0
    steps[~first] = later_gaps
    steps += 1
    ids = np.cumsum(steps, dtype=np.uint32)
    starts = np.cumsum(lengths) - lengths
    ids += np.repeat(first_ids.astype(np.uint32) - ids[starts], lengths)
    check_ids(ids, counts)
    return ids.view(np.int32)


def _first_of_group(lengths: NDArray[np.int64], num_entries: int) -> NDArray[np.bool_]:
    first = np.zeros(num_entries, np.bool_)
    first[np.cumsum(lengths) - lengths] = True
    return first
