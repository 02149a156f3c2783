"""A store for those without logitstore: plain Parquet lists, flat Zarr arrays, or dense rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from logitstore.errors import InvalidInput
from logitstore.store.export_parquet import write_parquet
from logitstore.store.export_zarr import write_dense, write_flat
from logitstore.store.reader import Sequence, Store, open_store
from logitstore.store.staging import publish_folder, staging_folder
from logitstore.store.storage import LocalStorage, disk_errors
from logitstore.store.writer import refuse_existing

ExportFormat = Literal["parquet", "zarr-flat", "dense"]
_WRITERS: dict[str, Callable[[Path, Iterator[Sequence], dict[str, Any]], None]] = {
    "parquet": write_parquet,
    "zarr-flat": write_flat,
    "dense": write_dense,
}


def export_store(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: ExportFormat,
    limit_sequences: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write what a store holds to the folder `out`, which appears when all is written.

    Formats:
        parquet: files of one row a sequence: `sequence`, `tokens` [S], `document_starts`, `ids` and `weights` (a list
            for each position), the teacher's statistics where they are stored ([S] each).
        zarr-flat: Zarr v3 arrays over all P positions and E entries: `offsets` [P + 1], `ids` [E], `weights` [E]
            (compressed sparse rows), `tokens` [P], `sequence_offsets` [N + 1], the statistics [P].
        dense: `probabilities` [P, V] float32 instead of ids and weights; the rest as above.

    What was stored of the store's origin stands in the Parquet metadata, or the Zarr attributes, under "logitstore".

    Args:
        path: a sealed store.
        out: folder to make.
        format: see above.
        limit_sequences: only the first so many.
        progress: called with the positions done and their number.

    Raises:
        InvalidInput: another format, or a limit below 1.
        StoreError: kind "exists", "disk-full", "unwritable"; or what is wrong with the store, nothing being written.
    """
    if format not in _WRITERS:
        raise InvalidInput(f"format is {format!r}; {', '.join(get_args(ExportFormat))} was wanted.")
    if limit_sequences is not None and limit_sequences < 1:
        raise InvalidInput(f"limit_sequences is {limit_sequences}; at least 1 was wanted.")
    store, root = open_store(path), LocalStorage(out)
    refuse_existing(root)
    count = len(store) if limit_sequences is None else min(limit_sequences, len(store))
    with staging_folder(root) as folder:
        with disk_errors(root.url):
            _WRITERS[format](folder, _sequences(store, count, progress), _origin(store, count))
        publish_folder(folder, root)


def _sequences(store: Store, count: int, progress: Callable[[int, int], None] | None) -> Iterator[Sequence]:
    done, total = 0, int(store.sequence_lengths[:count].sum())
    for index in range(count):
        yield store[index]
        done += int(store.sequence_lengths[index])
        if progress is not None:
            progress(done, total)


def _origin(store: Store, count: int) -> dict[str, Any]:
    """Return what a reader should know: the manifest without its seal, and the store's identity."""
    manifest = {name: value for name, value in store.manifest.items() if name != "sealed"}
    return manifest | {"store_sha256": store.manifest_sha256, "exported_sequences": count}
