"""The fast decoder's loops over entries, compiled. `reference` says the same number by number."""

# S positions; groups: a position's entries, or with HEAD_GRID its head, then its tail; E entries, N ids that are stored

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore.codec.contexts import CONTEXTS_A_KIND, LEVEL, NUM_SIZE_CLASSES, VALUE
from logitstore.codec.decoding import (
    BAD_VALUE,
    FLOAT32,
    HEAD_GRID,
    PROBABILITIES,
    REPEATED,
    RIGHT,
    USED_UP,
    DecodingTables,
    Source,
    read,
    read_ids,
)
from logitstore.codec.jit import compiled
from logitstore.codec.sorting import LARGEST, NOTHING, sort_groups
from logitstore.codec.vectors import AT_ONCE, copy_16, sum_16

#: bytes of `DecodingTables.cell_rows` that a group has
_ROWS = np.uint64((LARGEST + np.uint64(1)) * LARGEST)


@compiled
def decode_entries(
    source: Source,
    tables: DecodingTables,
    form: int,
    scale: int,
    shapes: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    tokens: NDArray[np.int32],
    ids: NDArray[np.int32],
    values: NDArray[np.uint32],
) -> int:
    """Read the ids and the values of all entries; `shapes` are counts, heads and places of `decode_positions`."""
    counts, heads, _ = shapes
    labels = np.empty(len(counts), np.int64)
    refusal = _decode_ids(source, tables, 2 if form == HEAD_GRID else 1, shapes, tokens, ids, labels)
    if refusal or form == FLOAT32:
        return refusal
    by_position = np.empty(len(counts), np.uint8)
    if form == PROBABILITIES:
        levels = np.empty(len(counts), np.uint32)
        if not read(source, tables, np.full(len(counts), np.uint8(LEVEL)), levels):
            return USED_UP
        for position in range(len(counts)):
            if levels[position] >= CONTEXTS_A_KIND:
                return BAD_VALUE
            by_position[position] = VALUE + levels[position]
    elif form == HEAD_GRID:
        for position in range(len(counts)):
            head = heads[position]
            by_position[position] = VALUE + min(head, 11) + 12 * (counts[position] > head)
    else:
        for position in range(len(counts)):
            by_position[position] = VALUE + tables.size_classes[counts[position]]
    return _decode_values(source, tables, form != PROBABILITIES, scale, (counts, heads, labels), by_position, values)


@compiled
def _decode_ids(source: Any, tables: Any, num_groups: Any, shapes: Any, tokens: Any, ids: Any, labels: Any) -> int:
    """Read the ids of all groups, ascending within each; an id in both groups of a position is not looked for.

    Put into `labels` where the label is in the first group of each position, -1 where it is not.
    """
    counts, heads, places = shapes
    # of each group: how many ids are stored, and the label that belongs to them
    stored, others = np.empty((len(counts), num_groups), np.int64), np.empty((len(counts), num_groups), np.int32)
    for position in range(len(counts)):
        # the last position has no label
        label, place = tokens[min(position + 1, len(counts) - 1)], places[position]
        stored[position, 0] = heads[position] - (place == 1)
        others[position, 0] = label if place == 1 else NOTHING
        if num_groups == 2:
            stored[position, 1] = counts[position] - heads[position] - (place == 2)
            others[position, 1] = label if place == 2 else NOTHING
    num = stored.sum()
    # what is read and written 16 at once may go beyond the end
    keys = np.empty(num + AT_ONCE, np.int32)
    contexts = _cell_contexts(tables.cell_rows, num_groups, stored.reshape(-1), num)
    refusal = read_ids(source, tables, contexts, keys[:num])
    if refusal:
        return refusal
    places_of_others = np.empty((len(counts), num_groups), np.int64)
    if not sort_groups(keys, stored.reshape(-1), others.reshape(-1), ids, places_of_others.reshape(-1)):
        return REPEATED
    for position in range(len(counts)):
        labels[position] = places_of_others[position, 0] if places[position] == 1 else -1
    return RIGHT


@compiled
def _cell_contexts(rows: Any, num_groups: Any, stored: Any, num: Any) -> Any:
    """Return the contexts of all cells, [N + 16], given how many ids of each group are stored."""
    contexts = np.empty(num + AT_ONCE, np.uint8)
    at = np.uint64(0)
    for nth in range(len(stored)):
        left = np.uint64(stored[nth])
        row = np.uint64(nth % num_groups) * _ROWS
        if left > LARGEST:
            # all but the last ones have the context of the largest groups
            first = rows[row + LARGEST * LARGEST]
            contexts[at] = first
            for _ in range(left - LARGEST):
                at += np.uint64(1)
                contexts[at] = first + np.uint8(NUM_SIZE_CLASSES)
            for place in range(np.uint64(1), LARGEST):
                contexts[at + place] = rows[row + LARGEST * LARGEST + place]
            at += LARGEST
        else:
            # the first ones even where there are none, as nobody can guess that
            copy_16(contexts, at, rows, row + left * LARGEST)
            for place in range(np.uint64(AT_ONCE), left, np.uint64(AT_ONCE)):
                copy_16(contexts, at + place, rows, row + left * LARGEST + place)
            at += left
    return contexts


@compiled
def _decode_values(
    source: Any, tables: Any, with_rest: Any, scale: Any, shapes: Any, by_position: Any, values: Any
) -> int:
    """Read the values of the first groups; `shapes` are counts, heads, and where the label is among the heads."""
    counts, heads, labels = shapes
    num = len(values)
    for position in range(len(counts)):
        num -= with_rest and heads[position] > 0 and heads[position] == counts[position]
    contexts, at = np.empty(num + 2 * AT_ONCE, np.uint8), np.uint64(0)
    repeated = tables.repeated
    for position in range(len(counts)):
        head = heads[position]
        stored = np.uint64(head - (with_rest and head > 0 and head == counts[position]))
        row = np.uint64(by_position[position]) * np.uint64(AT_ONCE)
        copy_16(contexts, at, repeated, row)
        for nth in range(np.uint64(AT_ONCE), stored, np.uint64(AT_ONCE)):
            copy_16(contexts, at + nth, repeated, row)
        label = min(np.uint64(labels[position]), stored)
        contexts[at + label] += np.uint8(CONTEXTS_A_KIND * (label < stored))
        at += stored
    numbers = np.empty(num + AT_ONCE, np.uint32)[:num] if with_rest else values
    if not read(source, tables, contexts, numbers):
        return USED_UP
    bad, largest = False, np.uint32(scale)
    for nth in range(num):
        bad |= (numbers[nth] < np.uint32(1)) | (numbers[nth] > largest)
    if bad:
        return BAD_VALUE
    return _place_values(scale, counts, heads, numbers, values) if with_rest else RIGHT


@compiled
def _place_values(scale: Any, counts: Any, heads: Any, numbers: Any, values: Any) -> int:
    """Put the numbers where they belong, and the values that the rule for the sum gives.

    16 more of `numbers` may be read, and of `values` written. What is written too much is overwritten by the next
    position.
    """
    smallest_rest = np.int64(1)
    start = begin = np.uint64(0)
    for position in range(len(counts)):
        has_rest = heads[position] > 0 and heads[position] == counts[position]
        stored = np.uint64(heads[position] - has_rest)
        copy_16(values, start, numbers, begin)
        rest = np.int64(scale) - sum_16(numbers, begin, stored)
        for nth in range(np.uint64(AT_ONCE), stored, np.uint64(AT_ONCE)):
            copy_16(values, start + nth, numbers, begin + nth)
            rest -= sum_16(numbers, begin + nth, stored - nth)
        smallest_rest = min(smallest_rest, rest)
        start += stored
        begin += stored
        values[start] = rest
        start += np.uint64(has_rest)
    return BAD_VALUE if smallest_rest < 1 else RIGHT
