"""What one blob holds, as plain arrays, and the rules that these arrays keep."""

# S tokens of a sequence, E entries, H head entries

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore.errors import InvalidInput

#: longer sequences cannot be stored; a damaged header cannot ask for more memory than these allow
MAX_TOKENS = 1 << 22
#: the most values that one pco chunk can hold
MAX_ENTRIES = 1 << 24
MAX_ENTRIES_PER_POSITION = 65_535
#: token ids are below this
ID_LIMIT = 1 << 20
#: scale and values are stored in 32 bits
MAX_SCALE = (1 << 32) - 1


class WeightForm(IntEnum):
    """How the weights of a sequence are given and stored."""

    COUNTS = 1
    PROBABILITIES = 2
    FLOAT32 = 3
    HEAD_GRID = 4


#: the per-position statistics of the teacher that can be stored
STATISTICS = ("entropy", "label_probability", "top1_probability")


@dataclass(frozen=True, eq=False)
class SequenceArrays:
    """One sequence and its sparse targets.

    Attributes:
        tokens: token ids, [S] int32, 0 to 2^20 - 1.
        counts: entries of each position, [S] int64, 0 to 65,535; 0 where the position is masked.
        ids: token ids of the entries, [E] int32, 0 to 2^20 - 1, strictly ascending within a position; with
            `head_counts`, within its head entries and within the tail entries that follow them.
        form: what `values` are.
        values: COUNTS: how often each entry was drawn, [E] uint32, 1 to `scale`;
            PROBABILITIES: [E] float32 in (0, 1], stored as codes up to `scale` (`probability_error`);
            FLOAT32: [E] float32, finite, stored exactly;
            HEAD_GRID: numerators of the head entries, [H] uint32, 1 to `scale`, in a position no more than `scale`
            together; the tail entries share what is left.
        scale: COUNTS: draws n; PROBABILITIES: the largest code; HEAD_GRID: the grid b; FLOAT32: 0.
        head_counts: head entries of each position, [S] int64, no more than `counts`; with HEAD_GRID only.
        statistics: the teacher's statistics of each position by name (`STATISTICS`), [S] float32, kept bit for bit.
    """

    tokens: NDArray[np.int32]
    counts: NDArray[np.int64]
    ids: NDArray[np.int32]
    form: WeightForm
    values: NDArray[Any]
    scale: int = 0
    head_counts: NDArray[np.int64] | None = None
    statistics: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


def check_sizes(num_tokens: int, num_entries: int) -> None:
    """Raise InvalidInput where a sequence is larger than a blob can hold."""
    if num_tokens > MAX_TOKENS:
        raise InvalidInput(f"a sequence has {num_tokens} tokens; {MAX_TOKENS} is the most that one blob holds.")
    limit = min(MAX_ENTRIES, MAX_ENTRIES_PER_POSITION * num_tokens)
    if num_entries > limit:
        raise InvalidInput(
            f"a sequence of {num_tokens} tokens has {num_entries} entries; {limit} is the most that one blob holds."
        )


def check_counts(counts: NDArray[np.int64], head_counts: NDArray[np.int64] | None, num_entries: int) -> None:
    """Raise InvalidInput where entries of positions are out of range, or do not add up to `num_entries`."""
    position = first_bad((counts < 0) | (counts > MAX_ENTRIES_PER_POSITION))
    if position is not None:
        raise InvalidInput(
            f"position {position} has {counts[position]} entries; 0 to {MAX_ENTRIES_PER_POSITION} was wanted."
        )
    if counts.sum() != num_entries:
        raise InvalidInput(f"the positions have {counts.sum()} entries together; there are {num_entries} ids.")
    if head_counts is None:
        return
    position = first_bad((head_counts < 0) | (head_counts > counts))
    if position is not None:
        raise InvalidInput(
            f"position {position} has {head_counts[position]} head entries; 0 to {counts[position]}, all its entries, "
            "was wanted."
        )


def check_tokens(tokens: NDArray[Any]) -> None:
    """Raise InvalidInput where a token of the sequence is out of range."""
    position = first_bad((tokens < 0) | (tokens >= ID_LIMIT))
    if position is not None:
        raise InvalidInput(f"the token at position {position} is {tokens[position]}; 0 to {ID_LIMIT - 1} was wanted.")


def check_ids(ids: NDArray[Any], counts: NDArray[np.int64]) -> None:
    """Raise InvalidInput where an entry's id is out of range."""
    entry = first_bad((ids < 0) | (ids >= ID_LIMIT))
    if entry is not None:
        raise InvalidInput(
            f"position {position_of(entry, counts)} has token id {ids[entry]}; 0 to {ID_LIMIT - 1} was wanted."
        )


def position_of(entry: int, counts: NDArray[np.int64]) -> int:
    """Return the position that holds an entry, given the entries of each position."""
    return int(np.searchsorted(np.cumsum(counts), entry, side="right"))


def first_bad(bad: NDArray[np.bool_]) -> int | None:
    """Return the first index at which `bad` is true, None where there is none."""
    return int(bad.argmax()) if bad.any() else None


def check_array(name: str, array: NDArray[Any], dtype: type[np.generic], length: int | None = None) -> None:
    """Raise InvalidInput where `array` is no array of this dtype, of one dimension and, if given, of this length."""
    if not isinstance(array, np.ndarray):
        raise InvalidInput(f"{name} is a {type(array).__name__}; a numpy array was wanted.")
    if array.ndim != 1 or array.dtype != np.dtype(dtype):
        raise InvalidInput(
            f"{name} is {array.dtype} with shape {array.shape}; {np.dtype(dtype)} with 1 dimension was wanted."
        )
    if length is not None and len(array) != length:
        raise InvalidInput(f"{name} has {len(array)} values; {length} were wanted.")
