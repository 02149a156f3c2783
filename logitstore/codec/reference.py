"""The plain coder: what FORMAT.md says, number by number. The fast one must agree with it, and tests hold it to that."""

# S positions, E entries

from __future__ import annotations

from typing import Any

import numpy as np

from logitstore.codec import contexts
from logitstore.codec.arrays import SequenceArrays, WeightForm
from logitstore.codec.body import LOWEST_STATE, Body
from logitstore.codec.classes import CLASS_STARTS, CLASS_WIDTHS
from logitstore.codec.contexts import CONTEXTS_A_KIND
from logitstore.codec.probability_codes import from_codes
from logitstore.codec.streams import numbers_of
from logitstore.codec.table import PRECISION, TOTAL, FrequencyTable
from logitstore.errors import InvalidInput


def encode_body(arrays: SequenceArrays, table: FrequencyTable, lanes: int) -> Body:
    """Return the body of a sequence that keeps the rules, but for FLOAT32's values, which are no part of it.

    The entropy coder is rANS: it goes through the numbers from the last to the first, so that a decoder gets them in
    order.
    """
    parts = numbers_of(arrays, table)
    states, token_bytes = [LOWEST_STATE] * lanes, 0
    words: list[int] = []
    first_slots = np.cumsum(table.frequencies, axis=1, dtype=np.int64) - table.frequencies
    for part in reversed(parts):
        before = len(words)
        for nth in reversed(range(len(part.classes))):
            context, number_class = part.contexts[nth], part.classes[nth]
            frequency, first = int(table.frequencies[context, number_class]), int(first_slots[context, number_class])
            state = states[nth % lanes]
            if state >= frequency << (32 - PRECISION):
                words.append(state & 0xFFFF)
                state >>= 16
            states[nth % lanes] = (state // frequency << PRECISION) + first + state % frequency
        if len(part.contexts) and part.contexts[0] == contexts.TOKEN_CELL:
            token_bytes = 2 * (len(words) - before) + (int(part.widths.sum()) + 7) // 8
    packed, filled = 0, 0
    for part in parts:
        for bits, width in zip(part.bits.tolist(), part.widths.tolist(), strict=True):
            packed |= bits << filled
            filled += width
    return Body(
        states=np.array(states, np.uint32),
        words=np.array(words[::-1], np.uint16),
        bits=packed.to_bytes((filled + 7) // 8, "little"),
        token_bytes=token_bytes,
    )


def decode_body(body: Body, table: FrequencyTable, num_tokens: int, num_entries: int) -> SequenceArrays:
    """Return the sequence of a body; FLOAT32 comes without values, which are no part of it.

    Raises:
        InvalidInput: the body holds something else than `num_tokens` tokens and `num_entries` entries that keep the
            rules.
    """
    return _Reader(body, table).sequence(num_tokens, num_entries)


class _Reader:
    def __init__(self, body: Body, table: FrequencyTable) -> None:
        self._table, self._body = table, body
        self._states = [int(state) for state in body.states]
        self._words = body.words.tolist()
        self._read = 0
        self._bits, self._num_bits = int.from_bytes(body.bits, "little"), 8 * len(body.bits)
        self._bits_read = 0

    def sequence(self, num_tokens: int, num_entries: int) -> SequenceArrays:
        with_heads = self._table.form == WeightForm.HEAD_GRID
        counts = np.array(self._numbers([contexts.COUNT] * num_tokens), np.int64)
        heads = np.array(self._numbers(contexts.head_count_contexts(counts)), np.int64) if with_heads else None
        if (
            counts.max(initial=0) > 65_535
            or counts.sum() != num_entries
            or (heads is not None and (heads > counts).any())
        ):
            raise InvalidInput(f"the positions do not have {num_entries} entries together")
        places = self._numbers(contexts.place_contexts(counts, heads))
        if max(places, default=0) > (2 if with_heads else 1):
            raise InvalidInput("a label is in a group that does not exist")
        tokens = self._tokens(num_tokens)
        groups = counts if heads is None else np.stack([heads, counts - heads], axis=1).reshape(-1)
        ids = self._ids(groups.tolist(), places, tokens, 1 if heads is None else 2)
        arrays = SequenceArrays(
            tokens=np.array(tokens, np.int32),
            counts=counts,
            ids=np.array(ids, np.int32),
            form=self._table.form,
            values=np.empty(0, np.float32),
            scale=self._table.scale,
            head_counts=heads,
        )
        if self._table.form != WeightForm.FLOAT32:
            object.__setattr__(arrays, "values", self._values(arrays, places))
        self._check_end()
        return arrays

    def _numbers(self, number_contexts: Any) -> list[int]:
        """Return one number for each context: the classes of all of them come first, then their extra bits."""
        classes = [self._class(nth, int(context)) for nth, context in enumerate(number_contexts)]
        return [int(CLASS_STARTS[c]) + self._plain(int(CLASS_WIDTHS[c])) for c in classes]

    def _class(self, nth: int, context: int) -> int:
        lane = nth % len(self._states)
        state = self._states[lane]
        slot = state % TOTAL
        number_class = int(self._table.slots[context, slot])
        first, frequency = divmod(int(self._table.spans[context, number_class]), 1 << 16)
        state = frequency * (state >> PRECISION) + slot - first
        if state < LOWEST_STATE:
            if self._read == len(self._words):
                raise InvalidInput("the words of the body are used up")
            state = state << 16 | self._words[self._read]
            self._read += 1
        self._states[lane] = state
        return number_class

    def _plain(self, width: int) -> int:
        if self._bits_read + width > self._num_bits:
            raise InvalidInput("the plain bits of the body are used up")
        bits = self._bits >> self._bits_read & ((1 << width) - 1)
        self._bits_read += width
        return bits

    def _id(self, cell: int) -> int:
        rank = int(self._table.cell_starts[cell]) + self._plain(int(self._table.cell_widths[cell]))
        return int(self._table.id_of_rank[rank])

    def _tokens(self, num_tokens: int) -> list[int]:
        words_before, bits_before = self._read, self._bits_read
        cells = self._numbers([contexts.TOKEN_CELL] * num_tokens)
        self._check_cells(cells)
        tokens = [self._id(cell) for cell in cells]
        token_bytes = 2 * (self._read - words_before) + (self._bits_read - bits_before + 7) // 8
        if token_bytes != self._body.token_bytes:
            raise InvalidInput(f"the tokens take {token_bytes} bytes, the header says {self._body.token_bytes}")
        return tokens

    def _ids(self, sizes: list[int], places: list[int], tokens: list[int], groups_a_position: int) -> list[int]:
        """Return the ids of all groups: the label where it belongs, and what is stored."""
        stored, number_contexts = [], []
        for index, size in enumerate(sizes):
            position, group = divmod(index, groups_a_position)
            has_label = places[position] == group + 1
            if has_label and (size == 0 or position + 1 == len(tokens)):
                raise InvalidInput(f"the label of position {position} cannot be where it is said to be")
            stored.append(size - has_label)
            number_contexts += [
                contexts.cell_context(group, left < stored[-1], left) for left in range(stored[-1], 0, -1)
            ]
        gaps = self._numbers(number_contexts)
        cells, start = [], 0
        for size in stored:
            cells += np.cumsum(gaps[start : start + size], dtype=np.int64).tolist()
            start += size
        self._check_cells(cells)
        others = [self._id(cell) for cell in cells]
        ids, start = [], 0
        for index, (size, num_stored) in enumerate(zip(sizes, stored, strict=True)):
            label = [tokens[index // groups_a_position + 1]] if num_stored < size else []
            own = sorted(label + others[start : start + num_stored])
            if len(set(own)) < len(own):
                raise InvalidInput(f"position {index // groups_a_position} has an id twice")
            ids += own
            start += num_stored
        return ids

    def _values(self, arrays: SequenceArrays, places: list[int]) -> Any:
        counts, exact = arrays.counts.tolist(), arrays.form == WeightForm.PROBABILITIES
        valued = counts if arrays.head_counts is None else arrays.head_counts.tolist()
        levels = np.array(self._numbers([contexts.LEVEL] * len(counts)), np.int64) if exact else None
        if levels is not None and (levels >= CONTEXTS_A_KIND).any():
            raise InvalidInput("a level is out of range")
        by_position = contexts.value_contexts(arrays.form, arrays.counts, arrays.head_counts, levels).tolist()
        number_contexts, rests, start = [], [], 0
        for position, count in enumerate(counts):
            rests.append(not exact and 0 < count == valued[position])
            for entry in range(valued[position] - rests[-1]):
                is_label = places[position] == 1 and arrays.ids[start + entry] == arrays.tokens[position + 1]
                number_contexts.append(by_position[position] + CONTEXTS_A_KIND * is_label)
            start += count
        stored, values = iter(self._numbers(number_contexts)), []
        for position, has_rest in enumerate(rests):
            own = [next(stored) for _ in range(valued[position] - has_rest)]
            left = arrays.scale - sum(own)
            if not exact and counts[position] and left < 1:
                raise InvalidInput(f"the values of position {position} leave nothing")
            values += [*own, left] if has_rest else own
        if not all(1 <= value <= arrays.scale for value in values):
            raise InvalidInput(f"a value is not between 1 and {arrays.scale}")
        return from_codes(np.array(values, np.int64), arrays.scale) if exact else np.array(values, np.uint32)

    def _check_cells(self, cells: list[int]) -> None:
        if max(cells, default=0) >= len(self._table.cell_widths):
            raise InvalidInput(f"an id is in cell {max(cells)}; there are {len(self._table.cell_widths)}")

    def _check_end(self) -> None:
        left = self._num_bits - self._bits_read
        if left >= 8 or self._bits >> self._bits_read or self._read != len(self._words):
            raise InvalidInput("the body holds more than the sequence")
        if any(state != LOWEST_STATE for state in self._states):
            raise InvalidInput("the entropy coder does not end where it began")
