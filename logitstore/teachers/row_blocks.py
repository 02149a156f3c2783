"""A language-model head run over blocks of positions, for sequences whose logits do not fit at once."""

# S tokens of the sequence, V logits width, D hidden width

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

#: largest relative difference that the same product computed over other row counts may have, by dtype of the logits;
#: float32 kernels sum in another order (measured 1e-6), half types round the result once more
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
VERIFIED_TOKENS = 8


def block_logits(model: nn.Module, tokens: Tensor, rows: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (first position, logits [up to `rows`, V]) of one sequence: body once, head in blocks.

    The model's own forward runs on every block, with its body replaced by the block's hidden states [1, rows, D], so
    whatever the model does to its logits (softcapping, scaling, a bias) is done here as well.

    Args:
        model: a Hugging Face causal language model.
        tokens: [1, S] int64.
        rows: positions a block, at least 1.
    """
    body: nn.Module = model.base_model  # type: ignore[assignment]
    output = body(input_ids=tokens, use_cache=False, return_dict=True)
    for first in range(0, tokens.shape[1], rows):
        block = type(output)(last_hidden_state=output.last_hidden_state[:, first : first + rows])
        with _replaced_forward(body, block):
            logits = model(input_ids=tokens[:, first : first + rows], use_cache=False, return_dict=True).logits
        yield first, logits[0]


def blocks_match(model: nn.Module, tokens: Tensor, whole: Tensor) -> bool:
    """Say whether this model's logits in blocks are its logits.

    Args:
        model: a Hugging Face causal language model.
        tokens: [1, S] int64, a short sequence.
        whole: the model's logits of it, [S, V].
    """
    if model.base_model is model:
        return False
    try:
        rows = max(1, tokens.shape[1] // 2 - 1)
        blocks = torch.cat([logits for _, logits in block_logits(model, tokens, rows)])
    except Exception:  # any architecture may fail here in its own way; the caller then takes the slow way
        return False
    return blocks.shape == whole.shape and logits_close(blocks, whole)


def logits_close(left: Tensor, right: Tensor) -> bool:
    """Say whether two tensors of logits differ by rounding only."""
    tolerance = TOLERANCE.get(right.dtype, 1e-5)
    # relative to the largest logit: a small one is the sum of large terms that cancel
    finite = right[torch.isfinite(right)]
    scale = float(finite.abs().max()) if len(finite) else 0.0
    return torch.allclose(left, right, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


@contextmanager
def _replaced_forward(module: nn.Module, result: Any) -> Iterator[None]:
    """Let `module` return `result` whatever it is called with, and restore it exactly."""
    before: Callable[..., Any] | None = module.__dict__.get("forward")
    module.__dict__["forward"] = lambda *arguments, **options: result
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before
