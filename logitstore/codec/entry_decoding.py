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
    NO_CELL,
    PROBABILITIES,
    REPEATED,
    RIGHT,
    USED_UP,
    DecodingTables,
    Source,
    read,
)
from logitstore.codec.jit import compiled
from logitstore.codec.rans import BIT, PADDING_WORDS, read_bits
from logitstore.codec.sorting import order_by_size, sort_segments


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
    order, buckets = order_by_size(heads)
    refusal = _decode_ids(source, tables, form == HEAD_GRID, shapes, (order, buckets), tokens, ids)
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
    filled = order[buckets[1] :]
    return _decode_values(
        source, tables, form != PROBABILITIES, scale, shapes, filled, (tokens, ids), by_position, values
    )


@compiled
def _decode_ids(source: Any, tables: Any, with_heads: Any, shapes: Any, first_order: Any, tokens: Any, ids: Any) -> int:
    """Read the ids of all groups, ascending within each. An id in both groups of a position is not looked for."""
    counts, heads, places = shapes
    tails = counts - heads
    # where each group begins among the entries, and among the ids that are stored
    starts, stored_starts = np.empty((2, len(counts)), np.int64), np.empty((2, len(counts)), np.int64)
    entry = num = 0
    for position in range(len(counts)):
        starts[0, position], stored_starts[0, position] = entry, num
        entry += heads[position]
        num += heads[position] - (places[position] == 1)
        starts[1, position], stored_starts[1, position] = entry, num
        entry += tails[position]
        num += tails[position] - (places[position] == 2)
    plan = np.empty(num, np.uint8), np.empty(num, np.uint32)
    second_order = order_by_size(tails) if with_heads else first_order
    _plan_ids(tables, 0, heads, places, starts[0], stored_starts[0], first_order, plan)
    if with_heads:
        _plan_ids(tables, 1, tails, places, starts[1], stored_starts[1], second_order, plan)
    for position in range(len(counts)):
        if places[position] > 0:
            ids[starts[places[position] - 1, position]] = tokens[position + 1]
    refusal = _read_ids(source, tables, plan, ids)
    if refusal:
        return refusal
    sort_segments(ids, starts[0], heads, first_order[0], first_order[1])
    if with_heads:
        sort_segments(ids, starts[1], tails, second_order[0], second_order[1])
    return REPEATED if _has_repeated(ids, starts) else RIGHT


@compiled
def _plan_ids(
    tables: Any, group: Any, sizes: Any, places: Any, starts: Any, stored_starts: Any, ordered: Any, plan: Any
) -> None:
    """Find the context of each stored id and the place among the entries where it belongs."""
    order, buckets = ordered
    contexts, places_in_ids = plan
    by_left = tables.gap_contexts[group]
    for nth in range(buckets[1], len(order)):
        position = order[nth]
        has_label = np.int64(places[position] == group + 1)
        stored, num, entry = sizes[position] - has_label, stored_starts[position], starts[position] + has_label
        for place in range(stored):
            contexts[num + place] = by_left[stored - place]
            places_in_ids[num + place] = entry + place
        if stored > 0:
            contexts[num] -= NUM_SIZE_CLASSES


@compiled
def _read_ids(source: Any, tables: Any, plan: Any, ids: Any) -> int:
    contexts, places_in_ids = plan
    gaps = np.empty(len(contexts), np.uint32)
    if not read(source, tables, contexts, gaps):
        return USED_UP
    bits, bit, end = source.bits, source.cursor[BIT], 32 * (len(source.bits) - PADDING_WORDS)
    cell, num_cells = np.int64(0), len(tables.cells)
    for nth in range(len(gaps)):
        cell = np.int64(gaps[nth]) + cell * tables.is_gap[contexts[nth]]
        if cell >= num_cells or bit > end:
            return NO_CELL if bit <= end else USED_UP
        packed = tables.cells[np.uint64(cell)]
        rank = np.uint64((packed >> 5) + read_bits(bits, bit, packed & 31))
        ids[np.uint64(places_in_ids[nth])] = tables.id_of_rank[rank]
        bit += packed & 31
    source.cursor[BIT] = bit
    return RIGHT


@compiled
def _has_repeated(ids: Any, starts: Any) -> bool:
    """Return whether a group, sorted, has an id twice."""
    falls = 0
    for entry in range(1, len(ids)):
        falls += ids[entry] <= ids[entry - 1]
    # where a group begins, an id may be below the one before it; empty groups begin where others do
    last = 0
    for position in range(starts.shape[1]):
        for group in range(2):
            start = starts[group, position]
            if start > last and start < len(ids):
                falls -= ids[start] <= ids[start - 1]
            last = start
    return bool(falls != 0)


@compiled
def _decode_values(
    source: Any,
    tables: Any,
    with_rest: Any,
    scale: Any,
    shapes: Any,
    filled: Any,
    entries: Any,
    by_position: Any,
    values: Any,
) -> int:
    """Read the values of the first groups; `filled` are the positions that have some, in the order of their sizes."""
    counts, heads, places = shapes
    tokens, ids = entries
    starts, stored_starts = np.empty(len(counts), np.int64), np.empty(len(counts) + 1, np.int64)
    start = num = 0
    for position in range(len(counts)):
        starts[position], stored_starts[position] = start, num
        start += heads[position]
        num += heads[position] - (with_rest and heads[position] > 0 and heads[position] == counts[position])
    stored_starts[len(counts)] = num
    first_entries = np.cumsum(counts) - counts
    contexts = np.empty(num, np.uint8)
    for nth in range(len(filled)):
        position = filled[nth]
        begin, stored = stored_starts[position], stored_starts[position + 1] - stored_starts[position]
        label = tokens[position + 1] if places[position] == 1 else np.int32(-1)
        first, context = first_entries[position], by_position[position]
        for value in range(stored):
            contexts[begin + value] = context + CONTEXTS_A_KIND * (ids[first + value] == label)
    numbers = np.empty(num, np.uint32)
    if not read(source, tables, contexts, numbers):
        return USED_UP
    for nth in range(num):
        if numbers[nth] < 1 or numbers[nth] > scale:
            return BAD_VALUE
    return _place_values(with_rest, scale, counts, heads, filled, (starts, stored_starts), numbers, values)


@compiled
def _place_values(
    with_rest: Any, scale: Any, counts: Any, heads: Any, filled: Any, where: Any, numbers: Any, values: Any
) -> int:
    starts, stored_starts = where
    smallest_rest = np.int64(1)
    for nth in range(len(filled)):
        position = filled[nth]
        start, begin, rest = starts[position], stored_starts[position], np.int64(scale)
        stored = stored_starts[position + 1] - begin
        for value in range(stored):
            number = numbers[begin + value]
            rest -= np.int64(number)
            values[start + value] = number
        if with_rest:
            smallest_rest = min(smallest_rest, rest)
            if heads[position] == counts[position]:
                values[start + stored] = rest
    return BAD_VALUE if smallest_rest < 1 else RIGHT
