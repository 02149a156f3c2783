"""The file of a frequency table. FORMAT.md is the specification."""

# N listed ids, C cells

from __future__ import annotations

import struct
import zlib
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from logitstore.codec.arrays import WeightForm
from logitstore.codec.classes import NUM_CLASSES
from logitstore.codec.contexts import NUM_CONTEXTS
from logitstore.errors import StoreError

_MAGIC = b"\x93LGT"
_VERSION = 1
#: magic, version, three zeros, length of the content, crc32c of the stream
_FRONT = struct.Struct("<4sB3xII")
#: form, scale, V, N, C
_HEADER = struct.Struct("<5I")
_NUM_FREQUENCIES = NUM_CONTEXTS * NUM_CLASSES


class TableParts(NamedTuple):
    """What a table's content says: form, scale, vocabulary, listed ids, widths of the cells, frequencies."""

    form: WeightForm
    scale: int
    vocab_size: int
    listed_ids: NDArray[np.int32]
    cell_widths: NDArray[np.uint8]
    frequencies: NDArray[np.uint16]


def to_content(parts: TableParts) -> bytes:
    """Return a table as bytes before they are compressed: one table, one content, on every machine."""
    header = _HEADER.pack(parts.form, parts.scale, parts.vocab_size, len(parts.listed_ids), len(parts.cell_widths))
    steps = np.diff(parts.listed_ids.astype(np.int64), prepend=0)
    unsigned = np.where(steps < 0, -2 * steps - 1, 2 * steps)
    planes = _to_planes(unsigned, 3) + parts.cell_widths.tobytes() + _to_planes(parts.frequencies.reshape(-1), 2)
    return header + planes


def to_file(content: bytes) -> bytes:
    """Return the file of a table's content."""
    stream = zlib.compress(content, 9)
    return _FRONT.pack(_MAGIC, _VERSION, len(content), google_crc32c.value(stream)) + stream


def from_file(file: bytes, max_ids: int, max_cells: int) -> TableParts:
    """Return what a table's file says, as far as that can be told without knowing what makes a table.

    Raises:
        StoreError: kind "corrupt-table", or "newer-format".
    """
    if len(file) < _FRONT.size or file[:4] != _MAGIC:
        raise corrupt_table(f"it has {len(file)} bytes and starts with {file[:4]!r}")
    _, version, length, checksum = _FRONT.unpack_from(file)
    if version > _VERSION:
        raise StoreError(
            f"the frequency table has version {version}; this logitstore reads up to {_VERSION}. Upgrade logitstore.",
            kind="newer-format",
        )
    largest = _HEADER.size + 3 * max_ids + max_cells + 2 * _NUM_FREQUENCIES
    if version != _VERSION or file[5:8] != b"\0\0\0" or not _HEADER.size <= length <= largest:
        raise corrupt_table(f"its front has version {version} and a content of {length} bytes")
    stream = file[_FRONT.size :]
    if google_crc32c.value(stream) != checksum:
        raise corrupt_table("its checksum is another one")
    return _from_content(_decompress(stream, length))


def _decompress(stream: bytes, length: int) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        content = decompressor.decompress(stream, length + 1)
    except zlib.error as error:
        raise corrupt_table(f"it cannot be decompressed ({error})") from None
    if len(content) != length or not decompressor.eof or decompressor.unused_data:
        raise corrupt_table(f"it does not hold the {length} bytes that its front promises, or more follow")
    return content


def _from_content(content: bytes) -> TableParts:
    form, scale, vocab_size, num_ids, num_cells = _HEADER.unpack_from(content)
    wanted = _HEADER.size + 3 * num_ids + num_cells + 2 * _NUM_FREQUENCIES
    if len(content) != wanted or form not in tuple(WeightForm):
        raise corrupt_table(f"its content has {len(content)} bytes; {wanted} were wanted by its header")
    widths_start = _HEADER.size + 3 * num_ids
    unsigned = _from_planes(content, _HEADER.size, num_ids, 3)
    steps = np.where(unsigned & 1, -(unsigned + 1) // 2, unsigned // 2)
    ids = np.cumsum(steps)
    if ids.max(initial=0) >> 31 or ids.min(initial=0) < 0:
        raise corrupt_table("its ids leave every range")
    frequencies = _from_planes(content, widths_start + num_cells, _NUM_FREQUENCIES, 2)
    return TableParts(
        WeightForm(form),
        scale,
        vocab_size,
        ids.astype(np.int32),
        np.frombuffer(content, np.uint8, num_cells, widths_start),
        frequencies.astype(np.uint16).reshape(NUM_CONTEXTS, NUM_CLASSES),
    )


def _to_planes(numbers: NDArray[Any], width: int) -> bytes:
    """Return all lowest bytes, then all next ones: equal bytes side by side compress well."""
    return b"".join((numbers >> (8 * nth) & 0xFF).astype(np.uint8).tobytes() for nth in range(width))


def _from_planes(content: bytes, start: int, num: int, width: int) -> NDArray[np.int64]:
    planes = np.frombuffer(content, np.uint8, width * num, start).reshape(width, num).astype(np.int64)
    return np.asarray((planes << (8 * np.arange(width))[:, None]).sum(axis=0))


def corrupt_table(text: str) -> StoreError:
    """Return the error for a file that is no frequency table."""
    return StoreError(
        f"the frequency table is damaged: {text}. Without it no sequence of its store can be read; copy the store anew.",
        kind="corrupt-table",
    )
