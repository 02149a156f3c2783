"""Sections: lists of unsigned integers, raw or compressed with pco."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, PagingSpec
from pcodec.wrapped import FileCompressor, FileDecompressor

from logitstore.codec.arrays import MAX_ENTRIES
from logitstore.errors import StoreError

_RAW, _PCO = 0, 1
_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4")}
_PCO_MAJOR_VERSION = 4
_PCO_HEADER_BYTES = 2
_PCO_CLASSIC_WITHOUT_DELTA = 0


class Kind(IntEnum):
    """What a section holds, in the order in which sections stand."""

    VALUES = 1
    ENTROPY = 2
    LABEL_PROBABILITY = 3
    TOP1_PROBABILITY = 4


class EncodedSection(NamedTuple):
    """The bytes of a section, and the storage byte that says how to read them."""

    storage: int
    payload: bytes


def encode_section(values: NDArray[Any]) -> EncodedSection:
    """Return `values`, integers from 0 to 2^32 - 1, in the smaller of raw and pco."""
    largest = int(values.max(initial=0))
    width = 1 if largest < 1 << 8 else 2 if largest < 1 << 16 else 4
    narrow = np.ascontiguousarray(values, dtype=_DTYPES[width])
    raw = narrow.tobytes()
    compressed = _compress(narrow) if len(narrow) else raw
    if len(compressed) < len(raw):
        return EncodedSection(_PCO << 4 | width, compressed)
    return EncodedSection(_RAW << 4 | width, raw)


def check_storage(kind: Kind, storage: int) -> None:
    """Raise StoreError where a section's storage byte means nothing."""
    if storage >> 4 not in (_RAW, _PCO) or storage & 15 not in _DTYPES:
        raise corrupt(f"section {kind.name} has storage byte {storage:#04x}, which means nothing in this format")


def decode_section(kind: Kind, storage: int, payload: bytes, num_values: int) -> NDArray[Any]:
    """Return the `num_values` unsigned integers of a section, in an array of their stored width.

    Args:
        kind: for messages.
        storage: the section's storage byte, checked.
        payload: all bytes of the section.
        num_values: how many there must be; the caller has bounded it.
    Raises:
        StoreError: corrupt-blob, where `payload` does not hold exactly that.
    """
    dtype = _DTYPES[storage & 15]
    if storage >> 4 == _PCO:
        return _decompress(kind, payload, np.empty(num_values, dtype))
    if len(payload) != num_values * dtype.itemsize:
        raise corrupt(
            f"section {kind.name} has {len(payload)} bytes; {num_values} values of {dtype.itemsize} bytes were wanted"
        )
    return np.frombuffer(payload, dtype)


def corrupt(text: str) -> StoreError:
    """Return the error for a blob that does not hold what this format promises."""
    return StoreError(
        f"{text}. The blob is damaged or was not written by logitstore; `logitstore verify STORE` lists every bad "
        "sequence.",
        kind="corrupt-blob",
    )


def _compress(values: NDArray[Any]) -> bytes:
    config = ChunkConfig(
        compression_level=8,
        mode_spec=ModeSpec.classic(),
        delta_spec=DeltaSpec.no_op(),
        paging_spec=PagingSpec.equal_pages_up_to(MAX_ENTRIES),
        enable_8_bit=True,
    )
    file = FileCompressor()
    chunk = file.chunk_compressor(values, config)
    return bytes(file.write_header() + chunk.write_meta() + chunk.write_page(0))


def _decompress(kind: Kind, payload: bytes, values: NDArray[Any]) -> NDArray[Any]:
    # Other modes and delta encodings reserve memory by numbers inside the chunk (a dictionary, a window), which nothing
    # bounds here; a writer never uses them.
    if len(values) == 0 or len(payload) <= _PCO_HEADER_BYTES:
        raise corrupt(f"section {kind.name} has {len(payload)} bytes of pco for {len(values)} values")
    if payload[0] != _PCO_MAJOR_VERSION or payload[_PCO_HEADER_BYTES] != _PCO_CLASSIC_WITHOUT_DELTA:
        raise corrupt(f"section {kind.name} holds pco of another version or mode than this format allows")
    try:
        file, header_bytes = FileDecompressor.new(payload)
        chunk, meta_bytes = file.chunk_decompressor(payload[header_bytes:], f"u{8 * values.itemsize}")
        page = payload[header_bytes + meta_bytes :]
        progress, page_bytes = chunk.read_page_into(page, len(values), values)
    except Exception as error:
        raise corrupt(f"section {kind.name} cannot be decompressed ({error})") from error
    except BaseException as error:
        # a panic inside pco is a BaseException, and its type cannot be imported; an interrupt must pass
        if type(error).__name__ != "PanicException":
            raise
        raise corrupt(f"section {kind.name} cannot be decompressed (pco panicked: {error})") from error
    if not progress.finished or progress.n_processed != len(values) or page_bytes != len(page):
        raise corrupt(
            f"section {kind.name} gave {progress.n_processed} of {len(values)} values from {page_bytes} of "
            f"{len(page)} bytes"
        )
    return values
