"""The numbers of a sequence in the order in which a blob holds them, each with its context."""

# S positions, E entries, G groups (a position's entries; with head counts its head, then its tail), N numbers

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from logitstore.codec import contexts
from logitstore.codec.arrays import SequenceArrays, WeightForm
from logitstore.codec.classes import classes_of
from logitstore.codec.contexts import CONTEXTS_A_KIND, NUM_SIZE_CLASSES, SIZE_CLASSES
from logitstore.codec.probability_codes import to_codes
from logitstore.codec.table import FrequencyTable
from logitstore.errors import InvalidInput

#: levels in the whole range of codes
LEVELS = 128


class Numbers(NamedTuple):
    """Numbers that are stored together.

    Attributes:
        contexts: [N] uint8.
        classes: [N] uint8.
        bits: what is stored as it is: first the extra bits of all numbers, then the place of all ids in their cells.
        widths: how many bits each of `bits` has.
    """

    contexts: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    bits: NDArray[np.int64]
    widths: NDArray[np.uint8]


def numbers_of(arrays: SequenceArrays, table: FrequencyTable) -> list[Numbers]:
    """Return the numbers of a sequence that keeps the rules: counts, head counts, places, tokens, cells, levels, values.

    Raises:
        InvalidInput: kind "id-out-of-range", where the table does not know a token or an id; or it has no room for a
            number, which tables from `FrequencyTable.fit` always have.
    """
    check_vocabulary(arrays, table.vocab_size)
    counts, heads = arrays.counts, arrays.head_counts
    is_label = label_entries(arrays)
    sizes = counts if heads is None else np.stack([heads, counts - heads], axis=1).reshape(-1)
    group_of_entry = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.bincount(group_of_entry[is_label], minlength=len(sizes))
    places = labels if heads is None else labels[::2] + 2 * labels[1::2]
    parts = [_numbers(np.full(len(counts), contexts.COUNT), counts)]
    if heads is not None:
        parts.append(_numbers(contexts.head_count_contexts(counts), heads))
    parts.append(_numbers(contexts.place_contexts(counts, heads), places))
    token_ranks = table.rank_of_id[arrays.tokens]
    token_cells = table.cell_of_rank[token_ranks]
    parts.append(_numbers(np.full(len(counts), contexts.TOKEN_CELL), token_cells, table, token_cells, token_ranks))
    parts.append(_cells(arrays, table, ~is_label, group_of_entry, sizes - labels))
    if arrays.form != WeightForm.FLOAT32:
        parts += _values(arrays, is_label)
    if any((table.frequencies[part.contexts, part.classes] == 0).any() for part in parts):
        raise InvalidInput("the frequency table has no room for a number of this sequence; take one that was fitted.")
    return parts


def label_entries(arrays: SequenceArrays) -> NDArray[np.bool_]:
    """Return which entries are their position's label, the next token, [E]."""
    labels = np.append(arrays.tokens[1:], np.int32(-1))
    return np.asarray(arrays.ids == np.repeat(labels[: len(arrays.tokens)], arrays.counts))


def levels_of(codes: NDArray[Any], scale: int, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the level of each position, [S]: half the class of its smallest code, 0 where it is masked."""
    levels = np.zeros(len(counts), np.int64)
    taken = counts > 0
    if taken.any():
        smallest = np.minimum.reduceat(codes, (np.cumsum(counts) - counts)[taken])
        levels[taken] = np.minimum(LEVELS * smallest // scale, CONTEXTS_A_KIND - 1)
    return levels


def _values(arrays: SequenceArrays, is_label: NDArray[np.bool_]) -> list[Numbers]:
    """Return the levels, if there are any, and the values.

    The last value of a position without a tail follows from the rule for their sum and is not stored.
    """
    counts, heads, values, levels, parts = arrays.counts, arrays.head_counts, arrays.values, None, []
    valued = counts if heads is None else heads
    stored = np.ones(len(values), np.bool_)
    if arrays.form == WeightForm.PROBABILITIES:
        values = to_codes(values, arrays.scale)
        levels = levels_of(values, arrays.scale, counts)
        parts.append(_numbers(np.full(len(counts), contexts.LEVEL), levels))
    else:
        stored[np.cumsum(valued)[(valued > 0) & (valued == counts)] - 1] = False
    nth_in_position = np.arange(len(is_label)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_label = is_label[nth_in_position < np.repeat(valued, counts)]
    by_position = contexts.value_contexts(arrays.form, counts, heads, levels)
    by_value = np.repeat(by_position, valued) + CONTEXTS_A_KIND * is_label
    return [*parts, _numbers(by_value[stored], values[stored])]


def _cells(
    arrays: SequenceArrays,
    table: FrequencyTable,
    chosen: NDArray[np.bool_],
    group_of_entry: NDArray[np.int64],
    sizes: NDArray[np.int64],
) -> Numbers:
    """Return the cells of the chosen entries: by group, ascending by rank, each less the one before it."""
    keys = np.sort(group_of_entry[chosen] << 20 | table.rank_of_id[arrays.ids[chosen]])
    groups, ranks = keys >> 20, keys & 0xFFFFF
    cells = table.cell_of_rank[ranks]
    nth = np.arange(len(keys)) - (np.cumsum(sizes) - sizes)[groups]
    is_gap = nth > 0
    gaps = cells - np.where(is_gap, np.append(np.int32(0), cells)[: len(cells)], 0)
    kind = is_gap if arrays.head_counts is None else 2 * (groups % 2) + is_gap
    by_number = contexts.CELL + NUM_SIZE_CLASSES * kind + SIZE_CLASSES[sizes[groups] - nth]
    return _numbers(by_number, gaps, table, cells, ranks)


def _numbers(
    number_contexts: NDArray[Any],
    numbers: NDArray[Any],
    table: FrequencyTable | None = None,
    cells: NDArray[np.int32] | None = None,
    ranks: NDArray[Any] | None = None,
) -> Numbers:
    """Return numbers with their contexts; where they stand for ids, also the place of each id in its cell."""
    classes, widths, bits = classes_of(numbers)
    if table is not None and cells is not None and ranks is not None:
        bits = np.concatenate([bits, ranks - table.cell_starts[cells]])
        widths = np.concatenate([widths, table.cell_widths[cells]])
    return Numbers(number_contexts.astype(np.uint8), classes, bits, widths)


def check_vocabulary(arrays: SequenceArrays, vocab_size: int) -> None:
    """Raise InvalidInput where a token or an id is not below `vocab_size`."""
    for name, ids in (("a token", arrays.tokens), ("an entry", arrays.ids)):
        if ids.max(initial=-1) >= vocab_size:
            raise InvalidInput(
                f"{name} of the sequence has id {ids.max()}; the frequency table knows 0 to {vocab_size - 1}.",
                kind="id-out-of-range",
            )
