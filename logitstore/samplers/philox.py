"""Counter-based random numbers: the same position gets the same uniforms whoever asks, in whatever order.

Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), in int64
tensors, so that it gives the same bits on every device.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

from logitstore.errors import InvalidInput

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_MAX_INDEX = 1 << 56


class Purpose(IntEnum):
    """What random numbers are for: every use has its own, so that no two uses of a position share uniforms."""

    SAMPLING = 0
    ROUNDING = 1
    THINNING = 2
    THINNING_ROUNDING = 3


def philox(counters: tuple[Tensor, Tensor, Tensor, Tensor], seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return four 32-bit words for each counter.

    Args:
        counters: four int64 tensors of one shape (or shapes that broadcast), each value in [0, 2^32).
        seed: the key, in [0, 2^64).
    """
    c0, c1, c2, c3 = counters
    key0, key1 = seed & _MASK, seed >> 32
    for _ in range(_ROUNDS):
        # a product of two 32-bit words wraps in int64, but its 64 bits are right: mask what the shift sign-extends
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        high0, low0 = (product0 >> 32) & _MASK, product0 & _MASK
        high1, low1 = (product1 >> 32) & _MASK, product1 & _MASK
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0, key1 = (key0 + _WEYL[0]) & _MASK, (key1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def uniforms(positions: Tensor, draws: int, *, seed: int, index: int, purpose: Purpose, first_draw: int = 0) -> Tensor:
    """Return independent uniform numbers in [0, 1) for positions of one sequence.

    The counter is (sequence index, position, purpose, draw), so a number depends on nothing else: not on how
    positions are batched, nor on threads, processes or what was drawn before.

    Args:
        positions: [T] int64, places in the sequence.
        draws: how many numbers a position gets.
        seed: in [0, 2^64).
        index: index of the sequence in its store, in [0, 2^56).
        purpose: what the numbers are for.
        first_draw: number of the first draw, even.

    Returns:
        [T, draws] float64, multiples of 2^-53.
    """
    check_key(seed, index)
    device = positions.device
    blocks = torch.arange(first_draw // 2, first_draw // 2 + (draws + 1) // 2, device=device)
    low_index = torch.tensor(index & _MASK, device=device)
    tagged = torch.tensor((index >> 32) << 8 | int(purpose), device=device)
    words = philox((low_index, positions[:, None], tagged, blocks[None, :]), seed)
    first = ((words[0] >> 5) << 26) | (words[1] >> 6)
    second = ((words[2] >> 5) << 26) | (words[3] >> 6)
    return torch.stack([first, second], dim=-1).flatten(1)[:, :draws].double() * 2.0**-53


def check_key(seed: int, index: int) -> None:
    """Raise InvalidInput where a seed or a sequence index does not fit into the generator's counter."""
    if not 0 <= seed < 1 << 64:
        raise InvalidInput(f"seed is {seed}; a whole number from 0 to 2^64 - 1 was wanted.")
    if not 0 <= index < _MAX_INDEX:
        raise InvalidInput(f"sequence index is {index}; a whole number from 0 to 2^56 - 1 was wanted.")
