"""The entropy coder and the plain bits, compiled. `reference` says the same number by number."""

# N numbers

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore.codec.body import LANES
from logitstore.codec.classes import NUM_EXACT
from logitstore.codec.jit import compiled

#: words and bits are followed by so many zeros, so that a loop can read ahead before it looks where it is
PADDING_WORDS = 16

# cursor of a reader: the next word, the next plain bit
WORD, BIT = 0, 1


@compiled
def read_classes(
    words: NDArray[np.uint16],
    cursor: NDArray[np.int64],
    states: NDArray[np.uint64],
    slots: NDArray[np.uint8],
    spans: NDArray[np.uint32],
    contexts: NDArray[np.uint8],
    classes: NDArray[np.uint8],
) -> bool:
    """Decode one class for each context; False where the words are used up."""
    word, end, num = np.uint64(cursor[WORD]), np.uint64(len(words) - PADDING_WORDS), len(contexts)
    nth = 0
    if len(states) == LANES:
        nth = num - num % LANES
        word = _read_in_8_lanes(words, word, end, states, slots, spans, contexts[:nth], classes)
    while nth < num and word <= end:
        lane = nth % len(states)
        states[lane], classes[nth] = _step(states[lane], slots, spans, contexts[nth])
        states[lane], word = _refill(states[lane], words, word)
        nth += 1
    cursor[WORD] = word
    return bool(word <= end)


@compiled
def _step(state: Any, slots: Any, spans: Any, context: Any) -> Any:
    slot = state & np.uint64(4095)
    number_class = slots[context, slot]
    span = np.uint64(spans[context, number_class])
    return (span & np.uint64(0xFFFF)) * (state >> np.uint64(12)) + slot - (span >> np.uint64(16)), number_class


@compiled
def _refill(state: Any, words: Any, word: Any) -> Any:
    # without a branch: nobody can guess which states are short
    short = np.uint64(state < np.uint64(1 << 16))
    return state << (short << np.uint64(4)) | np.uint64(words[word]) * short, word + short


@compiled
def _read_in_8_lanes(
    words: Any, word: Any, end: Any, states: Any, slots: Any, spans: Any, contexts: Any, classes: Any
) -> Any:
    # independent states keep the processor busy while each of them waits for its tables
    a, b, c, d = states[0], states[1], states[2], states[3]
    e, f, g, h = states[4], states[5], states[6], states[7]
    for first in range(0, len(contexts), 8):
        if word > end:
            return word
        nth = np.uint64(first)
        a, classes[nth] = _step(a, slots, spans, contexts[nth])
        b, classes[nth + np.uint64(1)] = _step(b, slots, spans, contexts[nth + np.uint64(1)])
        c, classes[nth + np.uint64(2)] = _step(c, slots, spans, contexts[nth + np.uint64(2)])
        d, classes[nth + np.uint64(3)] = _step(d, slots, spans, contexts[nth + np.uint64(3)])
        e, classes[nth + np.uint64(4)] = _step(e, slots, spans, contexts[nth + np.uint64(4)])
        f, classes[nth + np.uint64(5)] = _step(f, slots, spans, contexts[nth + np.uint64(5)])
        g, classes[nth + np.uint64(6)] = _step(g, slots, spans, contexts[nth + np.uint64(6)])
        h, classes[nth + np.uint64(7)] = _step(h, slots, spans, contexts[nth + np.uint64(7)])
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
def read_bits(bits: NDArray[np.uint32], first_bit: Any, width: Any) -> Any:
    """Return `width` plain bits, at most 32, from bit `first_bit` on."""
    at = np.uint64(first_bit) >> np.uint64(5)
    both = np.uint64(bits[at]) | np.uint64(bits[at + np.uint64(1)]) << np.uint64(32)
    return np.int64(both >> (np.uint64(first_bit) & np.uint64(31)) & (np.uint64(1) << np.uint64(width)) - np.uint64(1))


@compiled
def read_numbers(
    bits: NDArray[np.uint32],
    cursor: NDArray[np.int64],
    class_starts: NDArray[np.int64],
    class_widths: NDArray[np.uint8],
    classes: NDArray[np.uint8],
    numbers: NDArray[np.int64],
) -> bool:
    """Return the numbers of classes by their extra bits; False where the bits are used up."""
    largest = np.uint8(0)
    for nth in range(len(classes)):
        largest = max(largest, classes[nth])
    if largest < NUM_EXACT:
        for nth in range(len(classes)):
            numbers[nth] = classes[nth]
        return True
    bit, end = cursor[BIT], 32 * (len(bits) - PADDING_WORDS)
    for nth in range(len(classes)):
        number_class = classes[nth]
        width = np.int64(class_widths[number_class])
        number = class_starts[number_class]
        if width:
            if bit > end:
                return False
            number += read_bits(bits, bit, width)
            bit += width
        numbers[nth] = number
    cursor[BIT] = bit
    return bool(bit <= end)


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
