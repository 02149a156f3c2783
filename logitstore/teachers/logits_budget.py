"""How many bytes of logits a teacher may make at once."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from logitstore.errors import InvalidInput

GIB = 1 << 30
#: a machine short of memory is better served by small blocks than by an allocation of next to nothing
SMALLEST_BUDGET = 64 << 20


def logits_budget(device: torch.device, max_logits_bytes: int | None) -> int:
    """Return the bytes of logits that may exist at once on `device`.

    By default an eighth of the available memory and at most 2 GiB on the CPU, a quarter of the free memory and at
    most 4 GiB on a CUDA device: the sampler needs several times the logits for its own work.
    """
    if max_logits_bytes is not None:
        if max_logits_bytes < 1:
            raise InvalidInput(f"max_logits_bytes is {max_logits_bytes}; a positive number of bytes was wanted.")
        return max_logits_bytes
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return max(SMALLEST_BUDGET, min(4 * GIB, free // 4))
    return max(SMALLEST_BUDGET, min(2 * GIB, _available_memory() // 8))


def _available_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return the bytes that new work can have.

    Linux says so in /proc/meminfo; sysconf's free pages leave out the page cache, which a machine that has just
    read a checkpoint is full of. Systems that know neither get a number that allows the smallest budget.
    """
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return 0
