"""What a store holds and what it costs, from its records; and what its teacher was like."""

from __future__ import annotations

import os
from typing import Any

from logitstore.store.reader import open_store
from logitstore.store.teacher_means import teacher_means


def store_statistics(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return counts and sizes of a sealed store, as JSON.

    `bytes_per_position` is all files over `positions` (positions with a target); "entries", "tokens" and "statistics"
    (the teacher's) of its split are the blobs' sections, "index" is everything else: blob headers, shard indexes, the
    Parquet index, manifests. Where statistics are stored, `teacher` has their means (`teacher_means`).

    Raises:
        StoreError: see `open_store` and `teacher_means`.
    """
    store = open_store(path)
    totals = store.manifest["sealed"]["totals"]
    positions = max(totals["positions"], 1)
    size = store.storage.total_bytes()
    statistics_bytes = totals["statistics_bytes"]
    rest = size - totals["entry_bytes"] - totals["token_bytes"] - statistics_bytes
    teacher = {"teacher": teacher_means(store)} if statistics_bytes else {}
    return {
        "sequences": totals["sequences"],
        "tokens": totals["tokens"],
        "positions": totals["positions"],
        "entries": totals["entries"],
        "entries_per_position": totals["entries"] / positions,
        "bytes_total": size,
        "bytes_per_position": size / positions,
        "bytes_per_position_split": {
            "entries": totals["entry_bytes"] / positions,
            "tokens": totals["token_bytes"] / positions,
            "statistics": statistics_bytes / positions,
            "index": rest / positions,
        },
        **teacher,
        "shards": len(store.manifest["sealed"]["shards"]),
        "vocab_size": store.manifest["vocab_size"],
        "sampler": store.manifest["sampler"],
        "teacher_temperature": store.manifest["teacher_temperature"],
        "format_version": store.manifest["format_version"],
    }
