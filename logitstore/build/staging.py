"""Pass 0: the data is read, tokenised, packed and planned in a folder beside the store, which appears only when whole."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore.build.documents import DocumentReader
from logitstore.build.packing import PackedSequence, pack_documents
from logitstore.build.tokenize import Encode, encode_documents
from logitstore.errors import StoreError
from logitstore.progress import Progress
from logitstore.store.layout import PLAN, disk_errors, sync_folder
from logitstore.store.plan_file import PlanTotals, write_plan


@dataclass(frozen=True)
class Packing:
    """How documents become sequences; see `pack_documents`."""

    seq_len: int
    pack: bool
    bos_id: int | None
    eod_id: int | None
    limit_tokens: int | None


@dataclass(frozen=True)
class Staged:
    """What pass 0 found.

    Attributes:
        data: each data file's name, size, hash and documents, as the manifest records them.
        totals: sequences and tokens.
        longest: tokens of the longest sequence.
        tokens_sha256: one hash over all sequences, their lengths and document starts.
        empty_documents: documents that were left out, as they have no text.
    """

    data: list[dict[str, Any]]
    totals: PlanTotals
    longest: int
    tokens_sha256: str
    empty_documents: int


@contextmanager
def staging_folder(root: Path) -> Iterator[Path]:
    """Make a hidden folder beside `root`; it goes away at the end, unless it became `root`."""
    folder = root.absolute().parent / f".{root.name}.staging-{uuid.uuid4().hex[:8]}"
    with disk_errors(folder):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def stage_data(
    folder: Path,
    files: list[Path],
    packing: Packing,
    *,
    encode: Encode | None,
    vocab_size: int,
    text_field: str,
    tokens_field: str | None,
    quiet: bool,
) -> Staged:
    """Read, tokenise and pack all data into the plan of `folder`.

    Raises:
        InvalidInput: see `DocumentReader`, `encode_documents` and `pack_documents`.
        StoreError: kind "disk-full".
    """
    reader = DocumentReader(files, text_field=text_field, tokens_field=tokens_field)
    counter = _Counter()
    with Progress("tokenising", None, unit="tokens", quiet=quiet) as progress:
        encoded = encode_documents(
            reader,
            encode=encode,
            vocab_size=vocab_size,
            bos_id=packing.bos_id,
            progress=lambda _, tokens: progress.advance(tokens - progress.done),
        )
        packed = pack_documents(
            (document.tokens for document in encoded),
            seq_len=packing.seq_len,
            pack=packing.pack,
            bos_id=packing.bos_id,
            eod_id=packing.eod_id,
            limit_tokens=packing.limit_tokens,
        )
        totals = write_plan(folder / PLAN, counter.count(packed))
    reader.finish()
    data = [file.to_dict() for file in reader.files]
    empty = sum(file.empty_documents for file in reader.files)
    return Staged(data, totals, counter.longest, counter.hash.hexdigest(), empty)


def publish_store(folder: Path, root: Path) -> None:
    """Let the staged folder become the store.

    Raises:
        StoreError: kind "exists", where another build was quicker.
    """
    sync_folder(folder)
    try:
        os.rename(folder, root)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise StoreError(f"{root} exists by now: another build was quicker.", kind="exists") from None
        raise StoreError(f"{root} cannot be made: {error.strerror}.", kind="unwritable") from error
    sync_folder(root.absolute().parent)


class _Counter:
    """Sees every packed sequence on its way to the plan."""

    def __init__(self) -> None:
        self.longest = 0
        self.hash = hashlib.sha256()

    def count(self, sequences: Iterator[PackedSequence]) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        for sequence in sequences:
            self.longest = max(self.longest, len(sequence.tokens))
            for array in (sequence.tokens, sequence.document_starts):
                self.hash.update(len(array).to_bytes(8, "little"))
                self.hash.update(array.astype("<i4").tobytes())
            yield sequence.tokens, sequence.document_starts
