"""The store's frequency table: what its codec expects, frozen before the first shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from logitstore.codec import FrequencyTable, SequenceArrays
from logitstore.errors import StoreError
from logitstore.store import layout
from logitstore.store.convert import Weighting
from logitstore.store.storage import Storage


def fit_table(samples: Sequence[SequenceArrays], manifest: Mapping[str, Any]) -> FrequencyTable:
    """Return the table for a store whose sequences are like `samples`."""
    weighting = Weighting.of(manifest)
    return FrequencyTable.fit(samples, vocab_size=manifest["vocab_size"], form=weighting.form, scale=weighting.scale)


def publish_table(storage: Storage, table: FrequencyTable) -> FrequencyTable:
    """Give the store its table; return the one that it has, which is another one where somebody else was quicker."""
    won = storage.create(layout.TABLE, table.to_bytes())
    return table if won else read_store_table(storage)


def read_store_table(storage: Storage, sha256: str | None = None) -> FrequencyTable:
    """Return the table of a store.

    Args:
        storage: the store.
        sha256: the table's name, where the seal tells it.

    Raises:
        StoreError: kind "missing-table", "corrupt-table", "wrong-table" or "newer-format".
    """
    path = storage.where(layout.TABLE)
    if not storage.exists(layout.TABLE):
        raise StoreError(
            f"the frequency table {path} is missing. Without it no sequence can be read; copy the store anew.",
            kind="missing-table",
        )
    try:
        table = FrequencyTable.from_bytes(storage.read(layout.TABLE))
    except StoreError as error:
        raise StoreError(f"{path}: {error}", kind=error.kind) from None
    if sha256 is not None and table.sha256 != sha256:
        raise StoreError(
            f"{path} holds the frequency table {table.sha256}, the store was sealed with {sha256}. It is another "
            "store's.",
            kind="wrong-table",
        )
    return table
