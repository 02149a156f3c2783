"""Blobs for anyone who has numcodecs: `numcodecs.get_codec(config).decode(blob)` gives a table of entries."""

# E entries

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.abc import Codec
from numpy.typing import NDArray

from logitstore.codec.coding import decode
from logitstore.codec.table import FrequencyTable
from logitstore.codec.weights import entry_weights
from logitstore.errors import InvalidInput, StoreError

#: what decoding gives: one row for each entry, position by position
ENTRY_DTYPE = np.dtype([("position", "<u4"), ("id", "<u4"), ("weight", "<f4")])


class EntriesCodec(Codec):  # type: ignore[misc]
    """Reads the blobs of a store: bytes in, entries (`ENTRY_DTYPE`, [E]) out. It does not write any.

    The frequency table is a file of the store and no part of the configuration; its hash is.

    Args:
        table_path: file of the frequency table.
        table_sha256: SHA-256 of that file, in hexadecimal.
    """

    codec_id = "logitstore"

    def __init__(self, table_path: str, table_sha256: str) -> None:
        self.table_path, self.table_sha256 = table_path, table_sha256

    @cached_property
    def _table(self) -> FrequencyTable:
        try:
            content = Path(self.table_path).read_bytes()
        except OSError as error:
            raise StoreError(
                f"no frequency table can be read at {self.table_path} ({error}).", kind="wrong-table"
            ) from error
        table = FrequencyTable.from_bytes(content)
        if table.sha256 != self.table_sha256:
            raise StoreError(
                f"{self.table_path} is frequency table {table.sha256}; {self.table_sha256} was wanted.",
                kind="wrong-table",
            )
        return table

    def decode(self, buf: Any, out: Any = None) -> NDArray[Any]:
        """Return the entries of a blob, [E] of `ENTRY_DTYPE`; with `out`, [E] of it, they are put there.

        Raises:
            StoreError: as `logitstore.codec.decode` does, and kind "wrong-table" for the file at `table_path`.
        """
        arrays = decode(memoryview(buf).cast("B"), self._table)
        entries = np.empty(len(arrays.ids), ENTRY_DTYPE) if out is None else np.frombuffer(out, ENTRY_DTYPE)
        if len(entries) != len(arrays.ids):
            raise InvalidInput(f"out has room for {len(entries)} entries; {len(arrays.ids)} were wanted.")
        entries["position"] = np.repeat(np.arange(len(arrays.counts)), arrays.counts)
        entries["id"] = arrays.ids
        entries["weight"] = entry_weights(arrays)
        return entries

    def encode(self, buf: Any) -> Any:
        """Raise InvalidInput: entries alone are not a sequence; `logitstore.create_store` writes blobs."""
        raise InvalidInput("this codec only reads blobs; they are written by logitstore.create_store.")

    def get_config(self) -> dict[str, Any]:
        """Return what `numcodecs.get_codec` makes this codec from."""
        return {"id": self.codec_id, "table_path": self.table_path, "table_sha256": self.table_sha256}
