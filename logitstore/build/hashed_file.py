"""Data files that are hashed while they are read, once."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

_CHUNK_BYTES = 1 << 20


class HashedFile:
    """An open data file that counts and hashes the bytes read from it.

    Attributes:
        name: what messages call the file.
        size: bytes hashed so far.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self.name = name
        self.size = 0
        self._digest = hashlib.sha256()

    def read(self) -> bytes:
        """Return all bytes that are left."""
        return self._hashed(self._file.read())

    def lines(self) -> Iterator[bytes]:
        r"""Yield the lines that are left; they end at \n and nowhere else."""
        for line in self._file:
            yield self._hashed(line)

    def skip(self) -> None:
        """Hash all bytes that are left, a chunk at a time."""
        self._skip_to(None)

    def sha256(self) -> str:
        """Return the hash of the bytes read so far, in hexadecimal."""
        return self._digest.hexdigest()

    def stream(self) -> io.RawIOBase:
        """Return the file for random access, such as Parquet's; call `skip` when all is read.

        Bytes are hashed in order as reads pass over them. A read that reaches the end of the file, where Parquet begins,
        passes over nothing.
        """
        return _Stream(self)

    def read_at(self, start: int, buffer: memoryview) -> int:
        """Fill a buffer from byte `start` on, and hash what was passed over for the first time; return how much."""
        length = os.fstat(self._file.fileno()).st_size
        stop = min(start + len(buffer), length)
        if self.size < stop < length:
            self._skip_to(start)
        self._file.seek(start)
        found = self._file.read(max(stop - start, 0))
        buffer[: len(found)] = found
        if start <= self.size < start + len(found) < length:
            self._hashed(found[self.size - start :])
        return len(found)

    def _skip_to(self, stop: int | None) -> None:
        self._file.seek(self.size)
        while stop is None or self.size < stop:
            chunk = self._file.read(_CHUNK_BYTES if stop is None else min(_CHUNK_BYTES, stop - self.size))
            if not chunk:
                break
            self._hashed(chunk)

    def _hashed(self, data: bytes) -> bytes:
        self.size += len(data)
        self._digest.update(data)
        return data


class _Stream(io.RawIOBase):
    def __init__(self, file: HashedFile) -> None:
        self._hashed, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        end = os.fstat(self._hashed._file.fileno()).st_size
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: end}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = self._hashed.read_at(self._at, memoryview(buffer).cast("B"))
        self._at += count
        return count
