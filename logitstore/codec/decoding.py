"""The fast decoder's loops over positions, compiled. `reference` says the same number by number."""

# S positions; groups: a position's entries, or with HEAD_GRID its head, then its tail

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from logitstore.codec.arrays import MAX_ENTRIES_PER_POSITION, WeightForm
from logitstore.codec.contexts import (
    CONTEXTS_A_KIND,
    COUNT,
    HEAD_COUNT,
    PLACE,
    TOKEN_CELL,
)
from logitstore.codec.jit import compiled
from logitstore.codec.rans import BIT, PADDING_WORDS, WORD, read_bits, read_classes, read_numbers

#: what a body that cannot be right is refused for; the loops return the place in this list
REFUSALS = (
    "",
    "its words or its plain bits are used up too early",
    "its positions have other numbers of entries than its header says",
    "it has a label where there cannot be one",
    "it has an id in a cell that does not exist",
    "it has an id twice in a position",
    "it has a value out of range",
)
RIGHT, USED_UP, COUNTS, LABEL, NO_CELL, REPEATED, BAD_VALUE = range(7)
# numba wants plain numbers
PROBABILITIES, FLOAT32, HEAD_GRID = (
    int(form) for form in (WeightForm.PROBABILITIES, WeightForm.FLOAT32, WeightForm.HEAD_GRID)
)

#: place in a cursor where the tokens' bytes are put
TOKEN_BYTES = 2


class DecodingTables(NamedTuple):
    """A frequency table and what goes with it, as the loops want it."""

    slots: NDArray[np.uint8]
    spans: NDArray[np.uint32]
    class_starts: NDArray[np.int64]
    class_widths: NDArray[np.uint8]
    #: first rank of each cell, times 32, and its width
    cells: NDArray[np.int64]
    id_of_rank: NDArray[np.int32]
    #: 1 for the contexts of gaps, 0 for all others
    is_gap: NDArray[np.uint8]
    #: context of a gap by group and by how many ids are left, [2, 65536]
    gap_contexts: NDArray[np.uint8]
    size_classes: NDArray[np.uint8]


class Source(NamedTuple):
    """The body that is read, padded, and how far."""

    words: NDArray[np.uint16]
    bits: NDArray[np.uint32]
    states: NDArray[np.uint64]
    cursor: NDArray[np.int64]


@compiled
def read(source: Any, tables: Any, contexts: Any, numbers: Any) -> bool:
    """Read one number for each context."""
    words, bits, states, cursor = source
    classes = np.empty(len(contexts), np.uint8)
    if not read_classes(words, cursor, states, tables.slots, tables.spans, contexts, classes):
        return False
    return read_numbers(bits, cursor, tables.class_starts, tables.class_widths, classes, numbers)


@compiled
def decode_positions(
    source: Source,
    tables: DecodingTables,
    form: int,
    num_entries: int,
    counts: NDArray[np.int64],
    heads: NDArray[np.int64],
    places: NDArray[np.int64],
    tokens: NDArray[np.int32],
) -> int:
    """Read entries, head entries (all of them without HEAD_GRID), label place and token of each position, [S]."""
    contexts = np.full(len(counts), np.uint8(COUNT))
    if not read(source, tables, contexts, counts):
        return USED_UP
    total = 0
    for position in range(len(counts)):
        count = counts[position]
        if count > MAX_ENTRIES_PER_POSITION:
            return COUNTS
        total += count
        heads[position] = count
        contexts[position] = (HEAD_COUNT if form == HEAD_GRID else PLACE) + min(count, CONTEXTS_A_KIND - 1)
    if total != num_entries:
        return COUNTS
    if form == HEAD_GRID:
        if not read(source, tables, contexts, heads):
            return USED_UP
        for position in range(len(counts)):
            head, tail = heads[position], counts[position] - heads[position]
            if tail < 0:
                return COUNTS
            contexts[position] = PLACE + 3 * min(head, 7) + min(tail, 2)
    if not read(source, tables, contexts, places):
        return USED_UP
    for position in range(len(counts)):
        place, head = places[position], heads[position]
        room = head if place == 1 else counts[position] - head
        if place > 2 or (place > 0 and (room == 0 or position == len(counts) - 1)):
            return LABEL
    return _decode_tokens(source, tables, tokens)


@compiled
def _decode_tokens(source: Any, tables: Any, tokens: Any) -> int:
    cursor = source.cursor
    first_word, first_bit = cursor[WORD], cursor[BIT]
    cells = np.empty(len(tokens), np.uint32)
    if not read(source, tables, np.full(len(tokens), np.uint8(TOKEN_CELL)), cells):
        return USED_UP
    bit, end = cursor[BIT], 32 * (len(source.bits) - PADDING_WORDS)
    for position in range(len(tokens)):
        cell = cells[position]
        if cell >= len(tables.cells) or bit > end:
            return NO_CELL if bit <= end else USED_UP
        packed = tables.cells[cell]
        rank = np.uint64((packed >> 5) + read_bits(source.bits, bit, packed & 31))
        tokens[position] = tables.id_of_rank[rank]
        bit += packed & 31
    cursor[BIT] = bit
    cursor[TOKEN_BYTES] = 2 * (cursor[WORD] - first_word) + (bit - first_bit + 7) // 8
    return RIGHT
