"""A reader of ranges as a seekable stream, as pyarrow wants one."""

from __future__ import annotations

import io
from typing import Any

from logitstore.store.storage import RangeReader


class RangeStream(io.RawIOBase):
    """Reads what a `RangeReader` reads, from wherever it stands."""

    def __init__(self, reader: RangeReader) -> None:
        self._reader, self._at = reader, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._reader.size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        found = self._reader.read(self._at, len(buffer))
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)
