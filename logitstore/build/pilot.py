"""The pilot: sequences from all over the corpus that run first. The frequency table is fitted to them, and they tell
what the whole build will take.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from logitstore import codec
from logitstore.build.options import BuildOptions
from logitstore.build.plan import evenly_spread
from logitstore.build.sampling import PlannedSequence, TargetMaker
from logitstore.build.staging import Staged
from logitstore.errors import InvalidInput, StoreError
from logitstore.progress import Progress, say
from logitstore.store.convert import Weighting, to_arrays
from logitstore.store.frequency_table import fit_table, publish_table
from logitstore.store.pilot_file import publish_pilot
from logitstore.store.plan_file import read_plan
from logitstore.store.storage import Storage

#: more would save less than 2 % of a store; a pilot is lost where a build stops before it has begun, so of a small
#: corpus it is an eighth
_PILOT_TOKENS = 1 << 15
_LARGEST_SHARE = 1 / 8
#: files beside the sequences: manifest, index, commit records
_OVERHEAD_BYTES = 1 << 20
#: what a first run sets up would be counted for every sequence
_WARM_UP_TOKENS = 8


def pilot_indexes(num_sequences: int, num_tokens: int, *, largest_share: float = _LARGEST_SHARE) -> list[int]:
    """Return which sequences are the pilot, evenly spread, ascending: 32,768 tokens, at most a share of the corpus."""
    share = min(largest_share, _PILOT_TOKENS / max(num_tokens, 1))
    count = max(1, round(num_sequences * share))
    return evenly_spread(num_sequences, count)


def run_pilot(
    options: BuildOptions,
    storage: Storage,
    staging: Storage,
    manifest: dict[str, Any],
    maker: TargetMaker,
    staged: Staged,
) -> None:
    """Run the pilot, put its sequences and the frequency table into `staging`, and say what the whole will take.

    Raises:
        StoreError: kind "disk-too-small", where the store will not fit; kind "disk-full".
        TeacherError, InvalidInput: as `run_unit` does.
    """
    indexes = pilot_indexes(staged.totals.sequences, staged.totals.tokens)
    before = manifest.get("first_sequence", 0)
    sequences = [(before + index, sequence) for index in indexes for sequence in read_plan(staging, index, index + 1)]
    first, (tokens, starts) = sequences[0]
    list(maker.targets([(first, (tokens[:_WARM_UP_TOKENS], starts[:0]))]))
    arrays = {}
    begin = time.monotonic()
    with Progress("sampling a pilot", _num_tokens(sequences), unit="positions", quiet=options.quiet) as progress:
        for index, made in _arrays(sequences, manifest, maker):
            arrays[index] = made
            progress.advance(len(made.tokens))
    seconds = time.monotonic() - begin
    table = publish_table(staging, fit_table(list(arrays.values()), manifest))
    blobs = {index: codec.encode(made, table) for index, made in arrays.items()}
    publish_pilot(staging, blobs)
    entries = sum(len(made.ids) for made in arrays.values())
    share = staged.totals.tokens / _num_tokens(sequences)
    _project(options, storage, staged, entries * share, sum(map(len, blobs.values())) * share, seconds * share)


def _arrays(
    sequences: list[tuple[int, PlannedSequence]], manifest: dict[str, Any], maker: TargetMaker
) -> Iterator[tuple[int, codec.SequenceArrays]]:
    weighting = Weighting.of(manifest)
    for index, (tokens, _), targets in maker.targets(sequences):
        made = to_arrays(tokens, targets, weighting, manifest["vocab_size"], f"sequence {index}")
        try:
            codec.check_sequence(made)
        except InvalidInput as error:
            raise InvalidInput(f"sequence {index}: {error}", kind=error.kind) from None
        yield index, made


def _num_tokens(sequences: list[tuple[int, PlannedSequence]]) -> int:
    return sum(len(tokens) for _, (tokens, _) in sequences)


def _project(
    options: BuildOptions, storage: Storage, staged: Staged, num_entries: float, num_bytes: float, seconds: float
) -> None:
    """Say what the whole build will take, and refuse a disk that is too small for it."""
    positions = staged.totals.tokens
    size = int(num_bytes) + _OVERHEAD_BYTES
    free = storage.free_bytes()
    room = "" if free is None else f"; {_bytes(free)} are free"
    say(
        f"{staged.totals.sequences} sequences, {positions} tokens. By a pilot from all over them: "
        f"{num_entries / positions:.1f} entries and {num_bytes / positions:.1f} bytes a position, about "
        f"{_bytes(size)} and {_duration(seconds)} in all{room}.",
        quiet=options.quiet,
    )
    if free is not None and size > free:
        raise StoreError(
            f"the store needs about {_bytes(size)}, and the disk of {storage.url} has {_bytes(free)} free. Make space, "
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
