"""From a teacher's logits to its distribution, a block of rows at a time."""

# T positions, V vocabulary, R rows of a block

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from logitstore.errors import InvalidInput

#: probabilities held at once: few enough to stay near a CPU's cache, and to leave memory to the logits
_BLOCK_PROBABILITIES_CPU = 1 << 22
_BLOCK_PROBABILITIES_GPU = 1 << 28


def check_logits(logits: Tensor) -> None:
    """Raise InvalidInput where logits are no floating-point [T, V] with V >= 1."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.is_floating_point() or logits.shape[1] < 1:
        found = (
            f"{logits.dtype} with shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        )
        raise InvalidInput(f"logits are {found}; a floating-point tensor [T, V] with V >= 1 was wanted.")


def probability_blocks(logits: Tensor, first_position: int = 0, power: float = 1.0) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, probabilities [R, V] float32) over all rows of `logits` [T, V].

    The tensor yielded is scratch: it may be changed, and the next block overwrites it. A row's values do not depend on the rows beside it or on the number of threads: `torch.softmax` reduces each
    row in one fixed order.

    Args:
        logits: [T, V] floating point; -inf is a probability of zero.
        first_position: position of row 0, for messages.
        power: the distribution is proportional to p^power.

    Raises:
        InvalidInput: kind "bad-logits", where a row has NaN or +inf, or is -inf throughout; the position is named.
    """
    check_logits(logits)
    num_rows, vocab_size = logits.shape
    limit = _BLOCK_PROBABILITIES_CPU if logits.device.type == "cpu" else _BLOCK_PROBABILITIES_GPU
    height = max(1, min(limit // vocab_size, num_rows))
    # fresh memory for every block would cost more in page faults than the exponentials do
    scratch = torch.empty((height, vocab_size), dtype=torch.float32, device=logits.device)
    is_plain = logits.dtype == torch.float32 and power == 1.0
    converted = None if is_plain else torch.empty_like(scratch)
    for start in range(0, num_rows, height):
        block = logits[start : start + height].detach()
        if converted is not None:
            block = converted[: len(block)].copy_(block).mul_(power)
        probabilities = scratch[: len(block)]
        torch.softmax(block, dim=-1, out=probabilities)
        # NaN and +inf anywhere, and -inf everywhere, make the whole row NaN: one column tells
        bad = probabilities[:, 0].isnan()
        if bad.any():
            row = int(bad.nonzero()[0, 0])
            raise bad_logits(block[row], first_position + start + row)
        yield start, probabilities


def bad_logits(row: Tensor, position: int) -> InvalidInput:
    """Return the error for one row of unusable logits."""
    if row.isnan().any():
        found = f"NaN at token id {int(row.isnan().nonzero()[0, 0])}"
    elif row.isposinf().any():
        found = f"+inf at token id {int(row.isposinf().nonzero()[0, 0])}"
    else:
        found = "-inf at every token id"
    return InvalidInput(
        f"the teacher's logits at position {position} have {found}; finite values were wanted (-inf is allowed as "
        "zero probability, but not for every token). A half-precision overflow is the usual cause: try float32.",
        kind="bad-logits",
    )
