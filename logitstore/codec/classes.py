"""Numbers as a class, which is entropy-coded, and extra bits, which are stored as they are."""

# N numbers

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: numbers below this are classes of their own; above it each octave has 4 classes
NUM_EXACT = 64
_LARGEST = (1 << 32) - 1


def class_of(number: int) -> tuple[int, int, int]:
    """Return the class of a number, how many extra bits it has, and these bits."""
    if number < NUM_EXACT:
        return number, 0, 0
    width = number.bit_length() - 3
    return NUM_EXACT + 4 * (width - 4) + (number >> width) - 4, width, number & ((1 << width) - 1)


#: classes of the numbers up to 2^32 - 1
NUM_CLASSES = class_of(_LARGEST)[0] + 1


def _extra_width(number_class: int) -> int:
    return 0 if number_class < NUM_EXACT else (number_class - NUM_EXACT) // 4 + 4


def _smallest(number_class: int) -> int:
    return number_class if number_class < NUM_EXACT else (4 + number_class % 4) << _extra_width(number_class)


#: extra bits of each class, [NUM_CLASSES] uint8, and its smallest number, [NUM_CLASSES] int64
CLASS_WIDTHS = np.array([_extra_width(c) for c in range(NUM_CLASSES)], np.uint8)
CLASS_STARTS = np.array([_smallest(c) for c in range(NUM_CLASSES)], np.int64)


def classes_of(numbers: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    """Return class, number of extra bits and extra bits of each number, [N], 0 to 2^32 - 1."""
    numbers = np.asarray(numbers, np.int64)
    classes = (np.searchsorted(CLASS_STARTS, numbers, side="right") - 1).astype(np.uint8)
    return classes, CLASS_WIDTHS[classes], numbers - CLASS_STARTS[classes]
