"""What a build will take, told by its first sequences before it starts."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from logitstore.build.options import BuildOptions, say
from logitstore.build.sampling import TargetMaker
from logitstore.build.staging import Staged
from logitstore.errors import StoreError
from logitstore.store.layout import PLAN
from logitstore.store.plan_file import read_plan
from logitstore.store.writer import UnitWriter

#: files beside the sequences: manifest, index, commit records
_OVERHEAD_BYTES = 1 << 20
#: tokens of the trial: enough to fill a small batch, seconds for a large teacher
_TRIAL_TOKENS = 1024


def project(
    options: BuildOptions, root: Path, folder: Path, manifest: dict[str, Any], maker: TargetMaker, staged: Staged
) -> None:
    """Try the first sequences, say what the whole will take, and refuse a disk that is too small for it."""
    count = min(staged.totals.sequences, manifest["sequences_per_shard"], max(1, _TRIAL_TOKENS // staged.longest))
    first = list(read_plan(folder / PLAN, 0, count))
    with UnitWriter(folder, 0, manifest) as trial:
        for _ in range(2):  # what a first run sets up would be counted for every sequence
            begin = time.monotonic()
            made = list(maker.targets(first, 0))
        for (tokens, starts), targets in made:
            trial.append(tokens, targets, starts)
        seconds, positions = time.monotonic() - begin, max(trial.num_positions, 1)
        bytes_per_position, entries = trial.num_bytes / positions, trial.num_entries / positions
    size = int(bytes_per_position * staged.totals.tokens) + _OVERHEAD_BYTES
    free = shutil.disk_usage(root.absolute().parent).free
    say(
        options,
        f"{staged.totals.sequences} sequences, {staged.totals.tokens} tokens. By the first {positions}: {entries:.1f} "
        f"entries and {bytes_per_position:.1f} bytes a position, about {_bytes(size)} and "
        f"{_duration(seconds / positions * staged.totals.tokens)} in all; {_bytes(free)} are free.",
    )
    if size > free:
        raise StoreError(
            f"the store needs about {_bytes(size)}, and {root.absolute().parent} has {_bytes(free)} free. Make space, "
            "choose another path, or store fewer tokens (--limit-tokens) or fewer entries (--draws, --k).",
            kind="disk-too-small",
        )


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
