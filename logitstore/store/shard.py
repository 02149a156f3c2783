"""Shard files: one Zarr v3 sharding codec's file, an inner chunk for each sequence's blob.

An inner chunk is what Zarr's `vlen-bytes` codec makes of one value: the number of values (1) and the value's length
as little-endian uint32, then its bytes. The shard ends with its index, (offset, length) as little-endian uint64 for
each inner chunk, and the index's crc32c.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import warnings
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from logitstore.errors import StoreError
from logitstore.store.storage import Storage, disk_errors

_VALUE = struct.Struct("<II")
_MISSING = np.uint64(2**64 - 1)


@dataclass(frozen=True)
class ShardFile:
    """A shard's size and hash, as its commit record keeps them."""

    num_bytes: int
    sha256: str


class ShardWriter:
    """Writes one shard under an attempt name; `publish` gives it its lasting one. Leaving early removes it."""

    def __init__(self, storage: Storage, sequences_per_shard: int) -> None:
        self._storage, self._attempt = storage, storage.scratch()
        self._index = np.full((sequences_per_shard, 2), _MISSING, dtype="<u8")
        self._hash = hashlib.sha256()
        self._offset = 0
        self.num_sequences = 0
        with disk_errors(self._attempt):
            self._file = self._attempt.open("xb")

    def append(self, blob: bytes) -> None:
        """Add the next sequence's blob."""
        self._index[self.num_sequences] = self._offset, _VALUE.size + len(blob)
        self._write(_VALUE.pack(1, len(blob)) + blob)
        self.num_sequences += 1

    def publish(self, name: str) -> tuple[bool, ShardFile]:
        """Finish, sync and publish the shard; tell whether it is this one that got the name, and what it is."""
        index = self._index.tobytes()
        self._write(index + struct.pack("<I", google_crc32c.value(index)))
        with disk_errors(self._storage.where(name)):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        return self._storage.create_from(name, self._attempt), ShardFile(self._offset, self._hash.hexdigest())

    def _write(self, data: bytes) -> None:
        with disk_errors(self._attempt):
            self._file.write(data)
        self._hash.update(data)
        self._offset += len(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # a full disk refuses the last buffered bytes again; what is left of an attempt goes away with the seal
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._attempt.unlink(missing_ok=True)


class ShardReader:
    """Reads blobs of one shard: one ranged read each, the shard's index being read once.

    Raises:
        StoreError: kind "missing-shard", "truncated" or "checksum-mismatch".
    """

    def __init__(self, storage: Storage, name: str, sequences_per_shard: int) -> None:
        self.where = storage.where(name)
        try:
            self._reader = storage.reader(name)
        except StoreError as error:
            if error.kind != "missing-file":
                raise
            text = f"shard {self.where} is missing. `logitstore verify STORE` lists all that is."
            raise StoreError(text, kind="missing-shard") from None
        try:
            self._index = self._read_index(sequences_per_shard)
        except BaseException:
            self.close()
            raise

    def _read_index(self, sequences_per_shard: int) -> NDArray[np.uint64]:
        length, size = 16 * sequences_per_shard + 4, self._reader.size
        if size < length:
            text = f"shard {self.where} has {size} bytes, fewer than its index alone ({length}); it was cut short."
            raise StoreError(text, kind="truncated")
        data = self._reader.read(size - length, length)
        stored = struct.unpack("<I", data[-4:])[0]
        found = google_crc32c.value(data[:-4])
        if found != stored:
            text = f"the index of shard {self.where} has crc32c {found:08x}, its record says {stored:08x}. The shard is damaged."
            raise StoreError(text, kind="checksum-mismatch")
        return np.frombuffer(data[:-4], dtype="<u8").reshape(-1, 2)

    def read(self, place: int) -> bytes:
        """Return the blob at a place of the shard."""
        offset, length = (int(value) for value in self._index[place])
        if offset == _MISSING or length < _VALUE.size:
            raise StoreError(f"shard {self.where} holds nothing at place {place}.", kind="missing-sequence")
        data = self._reader.read(offset, length) if offset < 1 << 62 and length < 1 << 40 else b""
        if len(data) != length or _VALUE.unpack_from(data) != (1, length - _VALUE.size):
            raise StoreError(f"shard {self.where} is cut short or damaged at place {place}.", kind="truncated")
        return data[_VALUE.size :]

    @property
    def num_bytes(self) -> int:
        """Size of the shard."""
        return self._reader.size

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


def array_metadata(num_sequences: int, sequences_per_shard: int) -> tuple[bytes, bytes]:
    """Return the `zarr.json` of the store's group and of its one array, as zarr-python itself writes them."""
    import zarr
    from zarr.core.dtype import VariableLengthBytes

    memory: dict[str, object] = {}
    with warnings.catch_warnings():
        # bytes of variable length are not in the Zarr v3 core specification yet
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        store = zarr.storage.MemoryStore(memory)  # type: ignore[arg-type]
        group = zarr.create_group(store=store)
        group.create_array(
            "sequences",
            shape=(num_sequences,),
            chunks=(1,),
            shards=(sequences_per_shard,),
            dtype=VariableLengthBytes(),
            compressors=None,
        )
    found = {name: json.loads(value.to_bytes()) for name, value in memory.items()}  # type: ignore[attr-defined]
    encoded = {name: (json.dumps(document, indent=1) + "\n").encode() for name, document in found.items()}
    return encoded["zarr.json"], encoded["sequences/zarr.json"]
