"""The entropy coder and the plain bits, compiled. `reference` says the same number by number."""

# N numbers

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore.codec.body import LANES
from logitstore.codec.classes import NUM_CLASSES, NUM_EXACT
from logitstore.codec.jit import compiled
from logitstore.codec.vectors import load_32, load_64

#: words and bytes of bits are followed by so many zeros, so that a loop can read ahead before it looks where it is
PADDING = 16

# cursor of a reader: the next word, the next plain bit
WORD, BIT = 0, 1


#: bytes of a context in `coding_table`: its slots, then its spans, then some that keep contexts off each other's cache lines
_STRIDE = np.uint64(4096 + 4 * NUM_CLASSES + 32)


def coding_table(slots: NDArray[np.uint8], spans: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Return a table's slots and spans as `read_classes` wants them: those of a context beside each other, as bytes."""
    rows = np.zeros((len(slots), int(_STRIDE)), np.uint8)
    rows[:, :4096] = slots
    rows[:, 4096 : 4096 + 4 * NUM_CLASSES] = np.ascontiguousarray(spans).view(np.uint8)
    return rows.reshape(-1)


@compiled
def read_classes(
    words: NDArray[np.uint16],
    cursor: NDArray[np.int64],
    states: NDArray[np.uint32],
    coding: NDArray[np.uint8],
    contexts: NDArray[np.uint8],
    classes: NDArray[np.uint8],
) -> bool:
    """Decode one class for each of [N] classes; False where the words are used up.

    `coding` is what `coding_table` returns.
    """
    word, end, num = np.uint64(cursor[WORD]), np.uint64(len(words) - PADDING), len(classes)
    nth = 0
    if len(states) == LANES:
        nth = num - num % LANES
        word = _read_in_8_lanes(words, word, end, states, coding, contexts, classes[:nth])
    while nth < num and word <= end:
        lane = nth % len(states)
        states[lane], classes[nth] = _step(states[lane], coding, contexts[nth])
        states[lane], word = _refill(states[lane], words, word)
        nth += 1
    cursor[WORD] = word
    return bool(word <= end)


@compiled
def _step(state: Any, coding: Any, context: Any) -> Any:
    slot, own = state & np.uint32(4095), np.uint64(context) * _STRIDE
    number_class = coding[own + np.uint64(slot)]
    span = load_32(coding, own + np.uint64(4096) + np.uint64(4) * np.uint64(number_class))
    frequency, first = span & np.uint32(0xFFFF), span >> np.uint32(16)
    return np.uint32(frequency * (state >> np.uint32(12)) + slot - first), number_class


@compiled
def _refill(state: Any, words: Any, word: Any) -> Any:
    # without a branch: nobody can guess which states are short
    longer = np.uint32(state << np.uint32(16)) | np.uint32(words[word])
    short = state < np.uint32(1 << 16)
    return (longer if short else state), word + np.uint64(short)


@compiled
def _read_in_8_lanes(words: Any, word: Any, end: Any, states: Any, coding: Any, contexts: Any, classes: Any) -> Any:
    # independent states keep the processor busy while each of them waits for its tables
    a, b, c, d = states[0], states[1], states[2], states[3]
    e, f, g, h = states[4], states[5], states[6], states[7]
    for first in range(0, len(classes), 8):
        if word > end:
            return word
        nth = np.uint64(first)
        a, classes[nth] = _step(a, coding, contexts[nth])
        b, classes[nth + np.uint64(1)] = _step(b, coding, contexts[nth + np.uint64(1)])
        c, classes[nth + np.uint64(2)] = _step(c, coding, contexts[nth + np.uint64(2)])
        d, classes[nth + np.uint64(3)] = _step(d, coding, contexts[nth + np.uint64(3)])
        e, classes[nth + np.uint64(4)] = _step(e, coding, contexts[nth + np.uint64(4)])
        f, classes[nth + np.uint64(5)] = _step(f, coding, contexts[nth + np.uint64(5)])
        g, classes[nth + np.uint64(6)] = _step(g, coding, contexts[nth + np.uint64(6)])
        h, classes[nth + np.uint64(7)] = _step(h, coding, contexts[nth + np.uint64(7)])
        a, word = _refill(a, words, word)
        b, word = _refill(b, words, word)
        c, word = _refill(c, words, word)
        d, word = _refill(d, words, word)
        e, word = _refill(e, words, word)
        f, word = _refill(f, words, word)
        g, word = _refill(g, words, word)
        h, word = _refill(h, words, word)
    states[0], states[1], states[2], states[3] = a, b, c, d
    states[4], states[5], states[6], states[7] = e, f, g, h
    return word


@compiled
def read_bits(bits: NDArray[np.uint8], first_bit: Any, width: Any) -> Any:
    """Return `width` plain bits, at most 32, from bit `first_bit` on; all are uint64."""
    read = load_64(bits, first_bit >> np.uint64(3)) >> (first_bit & np.uint64(7))
    return read & ((np.uint64(1) << width) - np.uint64(1))


@compiled
def extra_bits(classes: NDArray[np.uint8]) -> int:
    """Return how many extra bits the numbers of these classes have together."""
    total = np.int64(0)
    for nth in range(len(classes)):
        # what `classes.CLASS_WIDTHS` says
        total += ((np.int64(classes[nth]) - NUM_EXACT) >> 2) + 4 if classes[nth] >= NUM_EXACT else 0
    return int(total)


@compiled
def read_numbers(
    bits: NDArray[np.uint8],
    cursor: NDArray[np.int64],
    class_starts: NDArray[np.uint64],
    class_widths: NDArray[np.uint8],
    classes: NDArray[np.uint8],
    numbers: NDArray[Any],
) -> bool:
    """Put the numbers of classes, with their extra bits, into `numbers`; False where the bits are used up."""
    num_bits = extra_bits(classes)
    if cursor[BIT] + num_bits > 8 * (len(bits) - PADDING):
        return False
    if num_bits == 0:
        for nth in range(len(classes)):
            numbers[nth] = classes[nth]
        return True
    bit = np.uint64(cursor[BIT])
    for nth in range(len(classes)):
        number_class = classes[nth]
        number = class_starts[number_class]
        if number_class >= NUM_EXACT:
            width = np.uint64(class_widths[number_class])
            number += read_bits(bits, bit, width)
            bit += width
        numbers[nth] = number
    cursor[BIT] = bit
    return True


@compiled
def write_classes(
    spans: NDArray[np.uint32],
    states: NDArray[np.uint64],
    contexts: NDArray[np.uint8],
    classes: NDArray[np.uint8],
    words: NDArray[np.uint16],
    num_words: int,
) -> int:
    """Encode classes from the last to the first; return how many words there are then, in `words`, last read first."""
    lanes = len(states)
    for nth in range(len(classes) - 1, -1, -1):
        lane = nth % lanes
        span, state = np.uint64(spans[contexts[nth], classes[nth]]), states[lane]
        frequency = span & np.uint64(0xFFFF)
        if state >= frequency << np.uint64(20):
            words[num_words] = np.uint16(state & np.uint64(0xFFFF))
            num_words += 1
            state >>= np.uint64(16)
        states[lane] = (state // frequency << np.uint64(12)) + state % frequency + (span >> np.uint64(16))
    return num_words


@compiled
def write_bits(values: NDArray[np.int64], widths: NDArray[np.uint8], packed: NDArray[np.uint8], first_bit: int) -> int:
    """Put plain bits into zeroed bytes from bit `first_bit` on; return the bit after them."""
    bit = np.int64(first_bit)
    for nth in range(len(values)):
        value, left = values[nth], np.int64(widths[nth])
        while left > 0:
            at = bit & 7
            taken = left if left < 8 - at else np.int64(8 - at)
            packed[bit >> 3] |= np.uint8((value & ((1 << taken) - 1)) << at)
            value >>= taken
            left -= taken
            bit += taken
    return int(bit)
