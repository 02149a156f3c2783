"""The fast coder: the same bodies as `reference`, by compiled loops."""

# S positions, E entries

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from logitstore.codec import contexts
from logitstore.codec.arrays import SequenceArrays, WeightForm
from logitstore.codec.body import LOWEST_STATE, Body
from logitstore.codec.classes import CLASS_STARTS, CLASS_WIDTHS
from logitstore.codec.decoding import (
    FLOAT32,
    OTHER_TOKEN_BYTES,
    REFUSALS,
    TOKEN_BYTES,
    DecodingTables,
    check_end,
    decode_positions,
    source_of,
    tables_of,
)
from logitstore.codec.entry_decoding import decode_entries
from logitstore.codec.jit import compiled
from logitstore.codec.probability_codes import from_codes
from logitstore.codec.rans import coding_table, write_bits, write_classes
from logitstore.codec.sorting import LARGEST
from logitstore.codec.streams import numbers_of
from logitstore.codec.table import FrequencyTable
from logitstore.codec.vectors import AT_ONCE
from logitstore.errors import InvalidInput


def encode_body(arrays: SequenceArrays, table: FrequencyTable, lanes: int) -> Body:
    """Return what `reference.encode_body` returns."""
    parts = numbers_of(arrays, table)
    states = np.full(lanes, LOWEST_STATE, np.uint64)
    words = np.empty(sum(len(part.classes) for part in parts), np.uint16)
    num_words = token_bytes = 0
    for part in reversed(parts):
        before = num_words
        num_words = write_classes(table.spans, states, part.contexts, part.classes, words, num_words)
        if len(part.contexts) and part.contexts[0] == contexts.TOKEN_CELL:
            token_bytes = 2 * (num_words - before) + (int(part.widths.sum()) + 7) // 8
    num_bits = sum(int(part.widths.sum()) for part in parts)
    packed, bit = np.zeros((num_bits + 7) // 8, np.uint8), 0
    for part in parts:
        bit = write_bits(part.bits, part.widths, packed, bit)
    return Body(states.astype(np.uint32), words[:num_words][::-1].copy(), packed.tobytes(), token_bytes)


def decode_body(body: Body, table: FrequencyTable, num_tokens: int, num_entries: int) -> SequenceArrays:
    """Return what `reference.decode_body` returns.

    Raises:
        InvalidInput: the body holds something else than `num_tokens` tokens and `num_entries` entries that keep the
            rules.
    """
    states, words = body.states.astype(np.uint32, copy=False), body.words.astype(np.uint16, copy=False)
    parts = states.view(np.uint8), words.view(np.uint8), np.frombuffer(body.bits, np.uint8)
    sizes = num_tokens, num_entries, body.token_bytes
    refusal, counts, heads, tokens, ids, codes = _decode(parts, _tables(table), int(table.form), table.scale, sizes)
    if refusal:
        raise InvalidInput(f"the body does not hold what its header says: {REFUSALS[refusal]}")
    values: NDArray[Any] = codes
    if table.form == WeightForm.PROBABILITIES:
        values = from_codes(codes, table.scale)
    elif table.form == WeightForm.FLOAT32:
        values = codes.view(np.float32)
    with_heads = table.form == WeightForm.HEAD_GRID
    return SequenceArrays(tokens, counts, ids, table.form, values, table.scale, heads if with_heads else None)


@compiled
def _decode(
    parts: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]],
    plain_tables: tuple[Any, ...],
    form: int,
    scale: int,
    sizes: tuple[int, int, int],
) -> Any:
    """Return why the body is refused, counts, heads, tokens, ids, values.

    `parts` are the bytes of states, words, plain bits; `plain_tables` are `DecodingTables` as a plain tuple, which
    numba takes faster; `sizes` are tokens, entries, token bytes.
    """
    source, tables = source_of(*parts), tables_of(plain_tables)
    num_tokens, num_entries, token_bytes = sizes
    counts, heads, places = (
        np.empty(num_tokens, np.int64),
        np.empty(num_tokens, np.int64),
        np.empty(num_tokens, np.int64),
    )
    tokens, ids, values = np.empty(num_tokens, np.int32), np.empty(0, np.int32), np.empty(0, np.uint32)
    refusal = decode_positions(source, tables, form, num_entries, counts, heads, places, tokens)
    if not refusal and source.cursor[TOKEN_BYTES] != token_bytes:
        refusal = OTHER_TOKEN_BYTES
    if not refusal:
        # the positions have so many entries: it is safe to reserve memory for them, and for what goes beyond the end
        ids = np.empty(num_entries + AT_ONCE, np.int32)[:num_entries]
        num_values = 0 if form == FLOAT32 else heads.sum()
        values = np.empty(num_values + AT_ONCE, np.uint32)[:num_values]
        refusal = decode_entries(source, tables, form, scale, (counts, heads, places), tokens, ids, values)
    if not refusal:
        refusal = check_end(source)
    return refusal, counts, heads, tokens, ids, values


_tables_of: WeakKeyDictionary[FrequencyTable, tuple[Any, ...]] = WeakKeyDictionary()


def _tables(table: FrequencyTable) -> tuple[Any, ...]:
    if table not in _tables_of:
        tables = DecodingTables(
            coding_table(table.slots, table.spans),
            CLASS_STARTS.astype(np.uint64),
            CLASS_WIDTHS,
            (table.cell_starts << 5 | table.cell_widths).astype(np.uint32),
            table.id_of_rank,
            _gap_masks(),
            _cell_rows(),
            np.repeat(np.arange(contexts.NUM_CONTEXTS, dtype=np.uint8), AT_ONCE),
            contexts.SIZE_CLASSES,
        )
        _tables_of[table] = tuple(tables)
    return _tables_of[table]


def _gap_masks() -> NDArray[np.uint64]:
    masks = np.zeros(256, np.uint64)
    for group in (0, 1):
        first = contexts.cell_context(group, True, 0)
        masks[first : first + contexts.NUM_SIZE_CLASSES] = np.iinfo(np.uint64).max
    return masks


def _cell_rows() -> NDArray[np.uint8]:
    rows = np.zeros((2, int(LARGEST) + 1, int(LARGEST)), np.uint8)
    for group in (0, 1):
        for num in range(int(LARGEST) + 1):
            rows[group, num, :num] = [contexts.cell_context(group, left < num, left) for left in range(num, 0, -1)]
    return rows.reshape(-1)
