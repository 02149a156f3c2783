"""The store's frequency table: what its codec expects, frozen before the first shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from logitstore.codec import FrequencyTable, SequenceArrays
from logitstore.errors import StoreError
from logitstore.store import layout
from logitstore.store.convert import Weighting


def fit_table(samples: Sequence[SequenceArrays], manifest: Mapping[str, Any]) -> FrequencyTable:
    """Return the table for a store whose sequences are like `samples`."""
    weighting = Weighting.of(manifest)
    return FrequencyTable.fit(samples, vocab_size=manifest["vocab_size"], form=weighting.form, scale=weighting.scale)


def publish_table(root: Path, table: FrequencyTable) -> FrequencyTable:
    """Give the store its table; return the one that it has, which is another one where somebody else was quicker."""
    won = layout.publish_bytes(root, layout.TABLE, table.to_bytes())
    return table if won else read_store_table(root)


def has_table(root: Path) -> bool:
    """Return whether the store has its table."""
    return (root / layout.TABLE).is_file()


def read_store_table(root: Path, sha256: str | None = None) -> FrequencyTable:
    """Return the table of a store.

    Args:
        root: the store's folder.
        sha256: the table's name, where the seal tells it.

    Raises:
        StoreError: kind "missing-table", "corrupt-table", "wrong-table" or "newer-format".
    """
    path = root / layout.TABLE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"the frequency table {path} cannot be read: {error.strerror or error}. Without it no sequence can be read; "
            "copy the store anew.",
            kind="missing-table",
        ) from None
    try:
        table = FrequencyTable.from_bytes(content)
    except StoreError as error:
        raise StoreError(f"{path}: {error}", kind=error.kind) from None
    if sha256 is not None and table.sha256 != sha256:
        raise StoreError(
            f"{path} holds the frequency table {table.sha256}, the store was sealed with {sha256}. It is another "
            "store's.",
            kind="wrong-table",
        )
    return table
