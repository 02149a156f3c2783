"""Time, memory and bandwidth of a function on a device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from logitstore.targets import SparseTargets

#: one line of the report
Row = dict[str, Any]
Rows = Iterator[Row]


def median_ms(function: Callable[[], object], device: str, rounds: int) -> float:
    """Return the median time of `function` in milliseconds; the first runs, which compile, do not count."""
    if device == "cpu":
        begin = time.perf_counter()
        function()
        return 1e3 * (time.perf_counter() - begin)
    for _ in range(3):
        function()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
    for begin, end in events:
        begin.record()
        function()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in events)


def extra_bytes(function: Callable[[], object], device: str) -> int:
    """Return how much more memory `function` holds at its peak than there is before it and is left after it."""
    if device == "cpu":
        function()
        return 0
    function()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - max(before, torch.cuda.memory_allocated())


def copy_gb_per_s(device: str, rounds: int) -> float:
    """Return the bandwidth of a large copy, bytes read and written, in GB/s."""
    source = torch.zeros((1 << 30) if device != "cpu" else (1 << 20), dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_ms(lambda: target.copy_(source), device, rounds) / 1e6


def random_targets(num_positions: int, vocab_size: int, count: int, device: str) -> SparseTargets:
    """Return targets of `count` entries in each position, ids spread over the vocabulary, weights 1/count."""
    generator = torch.Generator().manual_seed(count)
    step = max(1, vocab_size // count)
    first = torch.randint(step, (num_positions, 1), generator=generator)
    ids = (first + step * torch.arange(count)).clamp(max=vocab_size - 1).int().flatten()
    offsets = torch.arange(num_positions + 1) * count
    weights = torch.full((num_positions * count,), 1.0 / count)
    return SparseTargets(offsets, ids, weights).to(device)


def random_logits(num_positions: int, vocab_size: int, device: str, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Return logits with a standard deviation of 3, made row block by row block: float32 noise would be large."""
    generator = torch.Generator(device).manual_seed(0)
    logits = torch.empty(num_positions, vocab_size, dtype=dtype, device=device)
    for part in logits.split(256):
        part.copy_(3 * torch.randn(part.shape, device=device, generator=generator))
    return logits


def row(case: str, ms: float | None = None, **values: Any) -> Row:
    """Return a line: what was measured, in milliseconds where it was a time, and what follows from it."""
    line: Row = {"case": case} | ({} if ms is None else {"ms": round(ms, 4)})
    return line | {key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()}


def bar(value: float, limit: float, *, at_most: bool = True) -> str:
    """Return whether a bar was reached, in words."""
    reached = value <= limit if at_most else value >= limit
    return f"{'reached' if reached else 'MISSED'}: {value:.3f} {'<=' if at_most else '>='} {limit:g}"
