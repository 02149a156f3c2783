"""The body of a blob: the entropy-coded classes and the plain bits of all its numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: a state of the entropy coder is at least this, and below its square
LOWEST_STATE = 1 << 16
#: sequences of so many tokens are coded with 8 states in turn, which decodes twice as fast; shorter ones with 1, which is shorter
_TOKENS_FOR_ALL_LANES = 128
LANES = 8


def lanes_for(num_tokens: int) -> int:
    """Return how many states a writer codes a sequence with."""
    return LANES if num_tokens >= _TOKENS_FOR_ALL_LANES else 1


class Body(NamedTuple):
    """What the coders make and read.

    Attributes:
        states: the entropy coder's states where decoding begins, [lanes] uint32.
        words: what it reads from then on, uint16.
        bits: the plain bits, from the lowest of each byte to the highest.
        token_bytes: bytes that the tokens take: 2 for each word read while they are decoded, and their plain bits.
    """

    states: NDArray[np.uint32]
    words: NDArray[np.uint16]
    bits: bytes
    token_bytes: int
