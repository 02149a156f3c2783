"""The fast decoder's loops over positions, compiled. `reference` says the same number by number."""

# S positions; groups: a position's entries, or with HEAD_GRID its head, then its tail

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from logitstore.codec.arrays import MAX_ENTRIES_PER_POSITION, WeightForm
from logitstore.codec.body import LOWEST_STATE
from logitstore.codec.classes import NUM_EXACT
from logitstore.codec.contexts import (
    CONTEXTS_A_KIND,
    COUNT,
    HEAD_COUNT,
    PLACE,
    TOKEN_CELL,
)
from logitstore.codec.jit import compiled
from logitstore.codec.rans import BIT, PADDING, WORD, extra_bits, read_bits, read_classes, read_numbers

#: what a body that cannot be right is refused for; the loops return the place in this list
REFUSALS = (
    "",
    "its words or its plain bits are used up too early",
    "its positions have other numbers of entries than its header says",
    "it has a label where there cannot be one",
    "it has an id in a cell that does not exist",
    "it has an id twice in a position",
    "it has a value out of range",
    "its tokens take other bytes than its header says",
    "it holds more than the sequence",
    "the bits after the last one are not 0",
    "the entropy coder does not end where it began",
)
RIGHT, USED_UP, COUNTS, LABEL, NO_CELL, REPEATED, BAD_VALUE, OTHER_TOKEN_BYTES, MORE, MORE_BITS, BAD_STATES = range(11)
# numba wants plain numbers
PROBABILITIES, FLOAT32, HEAD_GRID = (
    int(form) for form in (WeightForm.PROBABILITIES, WeightForm.FLOAT32, WeightForm.HEAD_GRID)
)

#: place in a cursor where the tokens' bytes are put
TOKEN_BYTES = 2


class DecodingTables(NamedTuple):
    """A frequency table and what goes with it, as the loops want it: of one dimension."""

    #: `rans.coding_table`
    coding: NDArray[np.uint8]
    class_starts: NDArray[np.uint64]
    class_widths: NDArray[np.uint8]
    #: first rank of each cell << 5 | its width
    cells: NDArray[np.uint32]
    id_of_rank: NDArray[np.int32]
    #: all bits for the contexts of gaps, none for all others
    gap_masks: NDArray[np.uint64]
    #: contexts of the cells of a group by group and by how many ids are stored: [2 * 65 * 64]
    cell_rows: NDArray[np.uint8]
    #: each context 16 times
    repeated: NDArray[np.uint8]
    size_classes: NDArray[np.uint8]


class Source(NamedTuple):
    """The body that is read, padded, and how far."""

    words: NDArray[np.uint16]
    bits: NDArray[np.uint8]
    states: NDArray[np.uint32]
    cursor: NDArray[np.int64]


@compiled
def source_of(states: NDArray[np.uint8], words: NDArray[np.uint8], bits: NDArray[np.uint8]) -> Source:
    """Return the source of a body's bytes: copies, followed by zeros, so that loops need not look for the end at each step."""
    padded_words, padded_bits = np.zeros(len(words) // 2 + PADDING, np.uint16), np.zeros(len(bits) + PADDING, np.uint8)
    padded_words.view(np.uint8)[: len(words)] = words
    padded_bits[: len(bits)] = bits
    own_states = np.empty(len(states) // 4, np.uint32)
    own_states.view(np.uint8)[:] = states
    return Source(padded_words, padded_bits, own_states, np.zeros(3, np.int64))


@compiled
def tables_of(plain: Any) -> DecodingTables:
    """Return the tables that are in a plain tuple."""
    return DecodingTables(plain[0], plain[1], plain[2], plain[3], plain[4], plain[5], plain[6], plain[7], plain[8])


@compiled
def read(source: Any, tables: Any, contexts: Any, numbers: Any) -> bool:
    """Read one number for each of [N] numbers."""
    words, bits, states, cursor = source
    classes = np.empty(len(numbers), np.uint8)
    if not read_classes(words, cursor, states, tables.coding, contexts, classes):
        return False
    return read_numbers(bits, cursor, tables.class_starts, tables.class_widths, classes, numbers)


@compiled
def read_ids(source: Any, tables: Any, contexts: Any, ids: Any) -> int:
    """Read the cell of each of [N] ids, or its gap from the one before it, then its place in the cell."""
    words, bits, states, cursor = source
    classes = np.empty(len(ids), np.uint8)
    if not read_classes(words, cursor, states, tables.coding, contexts, classes):
        return USED_UP
    # the numbers' extra bits come before all places
    extra, end = np.uint64(cursor[BIT]), np.uint64(8 * (len(bits) - PADDING))
    bit = extra + np.uint64(extra_bits(classes))
    if bit > end:
        return USED_UP
    cell, num_cells = np.uint64(0), np.uint64(len(tables.cells))
    for nth in range(len(ids)):
        number = np.uint64(classes[nth])
        if number >= np.uint64(NUM_EXACT):
            width = np.uint64(tables.class_widths[number])
            number = tables.class_starts[number] + read_bits(bits, extra, width)
            extra += width
        cell = number + (cell & tables.gap_masks[contexts[nth]])
        if cell >= num_cells or bit > end:
            return NO_CELL if bit <= end else USED_UP
        packed = np.uint64(tables.cells[cell])
        width = packed & np.uint64(31)
        ids[nth] = tables.id_of_rank[(packed >> np.uint64(5)) + read_bits(bits, bit, width)]
        bit += width
    cursor[BIT] = bit
    return RIGHT if bit <= end else USED_UP


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
    # what is wrong is gathered, not returned at once, so that these loops become vectors
    total, wrong, first = 0, False, HEAD_COUNT if form == HEAD_GRID else PLACE
    for position in range(len(counts)):
        count = counts[position]
        wrong |= count > MAX_ENTRIES_PER_POSITION
        total += count
        heads[position] = count
        contexts[position] = first + min(count, CONTEXTS_A_KIND - 1)
    if wrong or total != num_entries:
        return COUNTS
    if form == HEAD_GRID:
        if not read(source, tables, contexts, heads):
            return USED_UP
        for position in range(len(counts)):
            head, tail = heads[position], counts[position] - heads[position]
            wrong |= tail < 0
            contexts[position] = PLACE + 3 * min(head, 7) + min(tail, 2)
        if wrong:
            return COUNTS
    if not read(source, tables, contexts, places):
        return USED_UP
    for position in range(len(counts)):
        place, head = places[position], heads[position]
        room = head if place == 1 else counts[position] - head
        wrong |= (place > 2) | ((place > 0) & (room == 0))
    if wrong or (len(places) > 0 and places[-1] > 0):
        return LABEL
    return _decode_tokens(source, tables, tokens)


@compiled
def _decode_tokens(source: Any, tables: Any, tokens: Any) -> int:
    cursor = source.cursor
    first_word, first_bit = cursor[WORD], cursor[BIT]
    refusal = read_ids(source, tables, np.full(len(tokens), np.uint8(TOKEN_CELL)), tokens)
    cursor[TOKEN_BYTES] = 2 * (cursor[WORD] - first_word) + (cursor[BIT] - first_bit + 7) // 8
    return refusal


@compiled
def check_end(source: Source) -> int:
    """Return why a body is refused that was read to its end."""
    words, bits, states, cursor = source
    read = cursor[BIT]
    if cursor[WORD] != len(words) - PADDING or (read + 7) // 8 != len(bits) - PADDING:
        return MORE
    # where all bits are read, this is a zero behind them
    if read % 8 and bits[read // 8] >> read % 8:
        return MORE_BITS
    for lane in range(len(states)):
        if states[lane] != LOWEST_STATE:
            return BAD_STATES
    return RIGHT
