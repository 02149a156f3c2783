"""Fitting a frequency table to samples."""

# V ids, N listed ids, C cells

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore.codec import contexts
from logitstore.codec.arrays import MAX_ENTRIES_PER_POSITION, SequenceArrays, WeightForm
from logitstore.codec.classes import CLASS_STARTS, CLASS_WIDTHS, NUM_CLASSES, class_of
from logitstore.codec.rules import check_form_and_scale, check_sequence
from logitstore.codec.streams import check_vocabulary, label_entries, numbers_of
from logitstore.codec.table import MAX_LISTED_IDS, TOTAL, FrequencyTable, check_vocab_size
from logitstore.errors import InvalidInput

#: seen once less this is what is expected of an id; what is taken away so goes to the ids never seen
_DISCOUNT = 0.5
#: share of the ids not yet passed that a cell should hold. Halving it saves .1 % and doubles the cells; doubling costs 1 %
_CELL_SHARE = 1 / 48
#: no part of a vocabulary is so rare that its cells need telling apart below this
_SMALLEST_SURVIVAL = 1e-12
#: weight of the assumed distribution, in numbers seen
_PRIOR_WEIGHT = 6.0


def fit_table(samples: Sequence[SequenceArrays], *, vocab_size: int, form: WeightForm, scale: int) -> FrequencyTable:
    """See `FrequencyTable.fit`."""
    check_vocab_size(vocab_size)
    check_form_and_scale(form, scale)
    occurrences = np.zeros(vocab_size, np.int64)
    for sample in samples:
        check_sequence(sample)
        if (sample.form, sample.scale) != (form, scale):
            raise InvalidInput(
                f"a sample is {sample.form.name} of scale {sample.scale}; {form.name} of scale {scale} was wanted."
            )
        check_vocabulary(sample, vocab_size)
        occurrences += np.bincount(sample.tokens, minlength=vocab_size)
        occurrences += np.bincount(sample.ids[~label_entries(sample)], minlength=vocab_size)
    seen_ids = np.flatnonzero(occurrences)
    by_frequency = np.argsort(-occurrences[seen_ids], kind="stable")[:MAX_LISTED_IDS]
    listed: NDArray[np.int32] = seen_ids[by_frequency].astype(np.int32)
    widths = _cell_widths(_probabilities_by_rank(occurrences, listed))
    largest = _largest_numbers(form, scale, len(widths))
    assumed = _assumed_shares(largest)
    empty = FrequencyTable(form, scale, vocab_size, listed, widths, _quantised(assumed))
    seen = np.zeros((contexts.NUM_CONTEXTS, NUM_CLASSES), np.int64)
    for sample in samples:
        for part in numbers_of(sample, empty):
            np.add.at(seen, (part.contexts, part.classes), 1)
    return FrequencyTable(form, scale, vocab_size, listed, widths, _quantised(seen + _PRIOR_WEIGHT * assumed))


def _probabilities_by_rank(occurrences: NDArray[np.int64], listed: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the share of each rank, [V]: listed ids by their discounted occurrences, then the unlisted ones.

    What is left for unlisted ids goes to octaves of ids like the ids seen once, as tokenizers give frequent tokens low
    ids, and evenly to the ids of an octave.
    """
    total = max(1, int(occurrences.sum()))
    seen = (occurrences[listed] - _DISCOUNT) / total
    unlisted = np.ones(len(occurrences), np.bool_)
    unlisted[listed] = False
    octaves = np.frexp(np.arange(len(occurrences)) + 256.0)[1]
    rare = np.bincount(octaves[occurrences == 1], minlength=32) + 0.5
    room = np.bincount(octaves[unlisted], minlength=32)
    shares = np.where(room > 0, rare, 0)
    if not room.any():
        return np.asarray(seen / seen.sum())
    shares = (1 - seen.sum()) * shares / shares.sum()
    return np.concatenate([seen, shares[octaves[unlisted]] / room[octaves[unlisted]]])


def _cell_widths(probabilities: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return cells that each hold about `_CELL_SHARE` of what is left at their start; a likely id has its own.

    With y = -ln(1 - share of the ids before), the sorted ranks of a random set have independent exponential gaps in y
    whatever the shares are (Renyi's representation of order statistics); so all cells should be equally long in y, and
    a gap in cells depends on nothing but the number of ids left.
    """
    ends = np.cumsum(probabilities) / probabilities.sum()
    y = np.concatenate([[0.0], -np.log(np.maximum(1 - ends, _SMALLEST_SURVIVAL))])
    widths, rank, num_ids = [], 0, len(probabilities)
    while rank < num_ids:
        width = 0
        while rank + (2 << width) <= num_ids and y[rank + (2 << width)] - y[rank] <= 2**0.5 * _CELL_SHARE:
            width += 1
        widths.append(width)
        rank += 1 << width
    return np.array(widths, np.uint8)


def _largest_numbers(form: WeightForm, scale: int, num_cells: int) -> NDArray[np.int64]:
    """Return the largest number that each context has to hold."""
    largest = np.full(contexts.NUM_CONTEXTS, MAX_ENTRIES_PER_POSITION, np.int64)
    exact = np.arange(contexts.CONTEXTS_A_KIND - 1)
    largest[contexts.HEAD_COUNT + exact] = exact
    largest[contexts.PLACE : contexts.TOKEN_CELL] = contexts.IN_SECOND
    largest[contexts.TOKEN_CELL : contexts.LEVEL] = num_cells - 1
    largest[contexts.LEVEL] = contexts.CONTEXTS_A_KIND - 1
    largest[contexts.VALUE :] = max(1, scale) if form != WeightForm.FLOAT32 else 0
    return largest


def _assumed_shares(largest: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what is expected of each class before any sample is seen, [contexts, classes], rows sum to 1."""
    sizes = 2.0**CLASS_WIDTHS
    # numbers fall off like 1 / n^2, places evenly; gaps geometrically, faster the more ids are left
    shares = np.tile(sizes / (1 + CLASS_STARTS) ** 2, (contexts.NUM_CONTEXTS, 1))
    shares[contexts.PLACE : contexts.TOKEN_CELL] = 1
    shares[contexts.TOKEN_CELL] = sizes / (1 + CLASS_STARTS)
    for context in range(contexts.CELL, contexts.LEVEL):
        left = contexts.SMALLEST_OF_SIZE_CLASS[(context - contexts.CELL) % contexts.NUM_SIZE_CLASSES]
        shares[context] = sizes * np.exp(-_CELL_SHARE * left * CLASS_STARTS)
    last_class = np.array([class_of(int(number))[0] for number in largest])
    shares[np.arange(NUM_CLASSES) > last_class[:, None]] = 0
    possible = shares > 0
    # exp() underflows for gaps that are possible all the same
    possible[contexts.CELL : contexts.LEVEL] = (
        np.arange(NUM_CLASSES) <= last_class[contexts.CELL : contexts.LEVEL, None]
    )
    return np.where(possible, np.maximum(shares / shares.sum(axis=1, keepdims=True), 1e-9), 0)


def _quantised(weights: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Return frequencies that add up to 4,096 a row, at least 1 where a weight is above 0."""
    rows = [_quantised_row(row) for row in weights]
    return np.array(rows, np.uint16)


def _quantised_row(weights: NDArray[Any]) -> NDArray[np.int64]:
    wanted = weights / weights.sum() * TOTAL
    found = np.where(weights > 0, np.maximum(1, np.floor(wanted)), 0).astype(np.int64)
    while (missing := TOTAL - int(found.sum())) != 0:
        if missing > 0:
            lacking = np.argsort(found - wanted, kind="stable")[:missing]
            found[lacking[weights[lacking] > 0]] += 1
        else:
            # taken from the most frequent ones, where a slot matters least
            found[np.argsort(-found, kind="stable")[: min(-missing, max(1, int((found > 1).sum()) // 4))]] -= 1
    return found
