"""Data files that are hashed while they are read, once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from logitstore.store.range_stream import RangeStream
from logitstore.store.storage import RangeReader

_CHUNK_BYTES = 1 << 20


def hash_file(path: Path, advance: Callable[[int], None]) -> str:
    """Return the SHA-256 of a file, in hexadecimal; `advance` is called with the bytes of each chunk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


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

    def stream(self) -> RangeStream:
        """Return the file for random access, such as Parquet's; call `skip` when all is read.

        Bytes are hashed in order as reads pass over them. A read that reaches the end of the file, where Parquet begins,
        passes over nothing.
        """
        return RangeStream(_Ranges(self, self._length()))

    def read_at(self, start: int, length: int) -> bytes:
        """Return bytes from `start` on, and hash what is passed over for the first time."""
        stop, end = start + length, self._length()
        if self.size < stop < end:
            self._skip_to(start)
        self._file.seek(start)
        found = self._file.read(length)
        if start <= self.size < stop < end:
            self._hashed(found[self.size - start :])
        return found

    def _length(self) -> int:
        return os.fstat(self._file.fileno()).st_size

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


class _Ranges(RangeReader):
    """A hashed file as what a `RangeStream` reads."""

    def __init__(self, file: HashedFile, size: int) -> None:
        self._file, self.size = file, size

    def read(self, start: int, length: int) -> bytes:
        return self._file.read_at(start, length)

    def close(self) -> None:
        """Do nothing: whoever opened the file closes it."""
