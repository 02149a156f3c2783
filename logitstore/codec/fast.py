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
    REFUSALS,
    TOKEN_BYTES,
    DecodingTables,
    Source,
    decode_positions,
)
from logitstore.codec.entry_decoding import decode_entries
from logitstore.codec.probability_codes import from_codes
from logitstore.codec.rans import BIT, PADDING_WORDS, WORD, write_bits, write_classes
from logitstore.codec.streams import numbers_of
from logitstore.codec.table import FrequencyTable
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
    source, tables, form = _source(body), _tables(table), int(table.form)
    counts, heads, places = (np.empty(num_tokens, np.int64) for _ in range(3))
    tokens = np.empty(num_tokens, np.int32)
    _check(decode_positions(source, tables, form, num_entries, counts, heads, places, tokens))
    if source.cursor[TOKEN_BYTES] != body.token_bytes:
        found = source.cursor[TOKEN_BYTES]
        raise InvalidInput(f"the tokens take {found} bytes, the header says {body.token_bytes}")
    ids = np.empty(num_entries, np.int32)
    values: NDArray[Any] = np.empty(0 if table.form == WeightForm.FLOAT32 else int(heads.sum()), np.uint32)
    _check(decode_entries(source, tables, form, table.scale, (counts, heads, places), tokens, ids, values))
    _check_end(source, body)
    if table.form == WeightForm.PROBABILITIES:
        values = from_codes(values, table.scale)
    elif table.form == WeightForm.FLOAT32:
        values = values.view(np.float32)
    with_heads = table.form == WeightForm.HEAD_GRID
    return SequenceArrays(tokens, counts, ids, table.form, values, table.scale, heads if with_heads else None)


def _source(body: Body) -> Source:
    words = np.zeros(len(body.words) + PADDING_WORDS, np.uint16)
    words[: len(body.words)] = body.words
    bits = np.zeros(-(-len(body.bits) // 4) + PADDING_WORDS, np.dtype("<u4"))
    bits.view(np.uint8)[: len(body.bits)] = np.frombuffer(body.bits, np.uint8)
    return Source(words, bits.astype(np.uint32, copy=False), body.states.astype(np.uint64), np.zeros(3, np.int64))


def _check(refusal: int) -> None:
    if refusal:
        raise InvalidInput(f"the body does not hold what its header says: {REFUSALS[refusal]}")


def _check_end(source: Source, body: Body) -> None:
    read = int(source.cursor[BIT])
    if source.cursor[WORD] != len(body.words) or (read + 7) // 8 != len(body.bits):
        raise InvalidInput("the body holds more than the sequence")
    if read % 8 and body.bits[-1] >> read % 8:
        raise InvalidInput("the bits after the last one are not 0")
    if (source.states != LOWEST_STATE).any():
        raise InvalidInput("the entropy coder does not end where it began")


_tables_of: WeakKeyDictionary[FrequencyTable, DecodingTables] = WeakKeyDictionary()


def _tables(table: FrequencyTable) -> DecodingTables:
    if table not in _tables_of:
        _tables_of[table] = DecodingTables(
            table.slots,
            table.spans,
            CLASS_STARTS,
            CLASS_WIDTHS,
            table.cell_starts.astype(np.int64) << 5 | table.cell_widths,
            table.id_of_rank,
            _is_gap(),
            _gap_contexts(),
            contexts.SIZE_CLASSES,
        )
    return _tables_of[table]


def _is_gap() -> NDArray[np.uint8]:
    flags = np.zeros(256, np.uint8)
    for group in (0, 1):
        first = contexts.cell_context(group, True, 0)
        flags[first : first + contexts.NUM_SIZE_CLASSES] = 1
    return flags


def _gap_contexts() -> NDArray[np.uint8]:
    firsts = [contexts.cell_context(group, True, 0) for group in (0, 1)]
    return (np.array(firsts)[:, None] + contexts.SIZE_CLASSES).astype(np.uint8)
