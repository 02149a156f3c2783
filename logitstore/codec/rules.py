"""The rules that the arrays of one sequence keep, checked before they are stored and after they are read."""

# S tokens of a sequence, E entries, V entries with a stored weight

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore.codec.arrays import (
    MAX_SCALE,
    STATISTICS,
    SequenceArrays,
    WeightForm,
    check_array,
    check_counts,
    check_ids,
    check_sizes,
    check_tokens,
    first_bad,
    position_of,
)
from logitstore.errors import InvalidInput

#: with PROBABILITIES the scale is the largest code
MAX_PROBABILITY_SCALE = 65_535

_VALUE_DTYPES: dict[WeightForm, type[np.generic]] = {
    WeightForm.COUNTS: np.uint32,
    WeightForm.PROBABILITIES: np.float32,
    WeightForm.FLOAT32: np.float32,
    WeightForm.HEAD_GRID: np.uint32,
}
_SCALES = {
    WeightForm.COUNTS: (1, MAX_SCALE),
    WeightForm.PROBABILITIES: (1, MAX_PROBABILITY_SCALE),
    WeightForm.FLOAT32: (0, 0),
    WeightForm.HEAD_GRID: (1, MAX_SCALE),
}


def check_sequence(arrays: SequenceArrays) -> None:
    """Raise InvalidInput where `arrays` break a rule of `SequenceArrays`, naming the position."""
    check_form_and_scale(arrays.form, arrays.scale)
    check_array("tokens", arrays.tokens, np.int32)
    check_array("ids", arrays.ids, np.int32)
    num_tokens, num_entries = len(arrays.tokens), len(arrays.ids)
    check_sizes(num_tokens, num_entries)
    check_array("counts", arrays.counts, np.int64, num_tokens)
    if (arrays.head_counts is not None) != (arrays.form == WeightForm.HEAD_GRID):
        found = "no head counts" if arrays.head_counts is None else "head counts"
        raise InvalidInput(f"{arrays.form.name} came with {found}; HEAD_GRID needs them, other forms have none.")
    if arrays.head_counts is not None:
        check_array("head_counts", arrays.head_counts, np.int64, num_tokens)
    check_counts(arrays.counts, arrays.head_counts, num_entries)
    valued = arrays.counts if arrays.head_counts is None else arrays.head_counts
    check_array("values", arrays.values, _VALUE_DTYPES[arrays.form], int(valued.sum()))
    check_tokens(arrays.tokens)
    check_ids(arrays.ids, arrays.counts)
    _check_order(arrays.ids, arrays.counts, arrays.head_counts)
    check_values(arrays.form, arrays.scale, arrays.values, valued)
    check_value_sums(arrays)
    for name, statistic in arrays.statistics.items():
        if name not in STATISTICS:
            raise InvalidInput(f"there is no statistic {name!r}; there are {', '.join(STATISTICS)}.")
        check_array(f"statistic {name}", statistic, np.float32, num_tokens)


def check_form_and_scale(form: WeightForm, scale: int) -> None:
    """Raise InvalidInput where `form` cannot have this `scale`."""
    if not isinstance(form, WeightForm):
        raise InvalidInput(f"form is {form!r}; a WeightForm was wanted.")
    low, high = _SCALES[form]
    if not isinstance(scale, int | np.integer) or not low <= scale <= high:
        raise InvalidInput(f"{form.name} has scale {scale}; {low} to {high} was wanted.")


def check_value_sums(arrays: SequenceArrays) -> None:
    """Raise InvalidInput where the counts, or the head numerators, of a position cannot be whole weights.

    Counts add up to the draws. Head numerators add up to the grid where there is no tail, else to less.
    """
    if arrays.form not in (WeightForm.COUNTS, WeightForm.HEAD_GRID):
        return
    valued = arrays.counts if arrays.head_counts is None else arrays.head_counts
    running = np.concatenate([np.zeros(1, np.int64), np.cumsum(arrays.values, dtype=np.int64)])
    ends = np.cumsum(valued)
    sums = running[ends] - running[ends - valued]
    scale = int(arrays.scale)
    whole = arrays.counts == valued
    position = first_bad((arrays.counts > 0) & np.where(whole, sums != scale, sums >= scale))
    if position is not None:
        what = "counts" if arrays.form == WeightForm.COUNTS else "head numerators"
        wanted = f"{scale}" if whole[position] else f"less than {scale}, as tail entries follow,"
        raise InvalidInput(
            f"the {what} of position {position} sum to {sums[position]}; {wanted} was wanted. Entries without weight "
            "are left out."
        )


def _check_order(ids: NDArray[Any], counts: NDArray[np.int64], head_counts: NDArray[np.int64] | None) -> None:
    starts = np.cumsum(counts) - counts
    is_first = np.zeros(len(ids) + 1, np.bool_)
    is_first[starts] = True
    if head_counts is not None:
        is_first[starts + head_counts] = True
    entry = first_bad((ids[1:] <= ids[:-1]) & ~is_first[1:-1])
    if entry is not None:
        raise InvalidInput(
            f"position {position_of(entry, counts)} has token id {ids[entry + 1]} after {ids[entry]}; ids that rise "
            "strictly were wanted (with head counts: in the head and in the tail). Sort them, join equal ones."
        )
    if head_counts is None or np.array_equal(head_counts, counts):
        return
    keyed = np.sort(np.repeat(np.arange(len(counts)) << 20, counts) | ids)
    twice = first_bad(keyed[1:] == keyed[:-1])
    if twice is not None:
        raise InvalidInput(
            f"position {keyed[twice] >> 20} has token id {keyed[twice] & 0xFFFFF} in its head and in its tail; once "
            "was wanted."
        )


def check_values(form: WeightForm, scale: int, values: NDArray[Any], counts: NDArray[np.int64]) -> None:
    """Raise InvalidInput where a value is not what `form` promises; position t has `counts[t]` values."""
    if form == WeightForm.FLOAT32:
        bad, wanted = ~np.isfinite(values), "a finite number"
    elif form == WeightForm.PROBABILITIES:
        bad, wanted = ~((values > 0) & (values <= 1)), "a probability above 0, at most 1,"
    else:
        bad, wanted = (values < 1) | (values > scale), f"1 to {scale}"
    entry = first_bad(bad)
    if entry is not None:
        raise InvalidInput(
            f"position {position_of(entry, counts)} has the {form.name} value {values[entry]}; {wanted} was wanted."
        )
