"""Pass 0: the data is read, tokenised, packed and planned in a folder beside the store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore.build.documents import DocumentReader
from logitstore.build.hashed_file import hash_file
from logitstore.build.packing import PackedSequence, pack_documents
from logitstore.build.plan import made_by_build
from logitstore.build.tokenize import Encode, encode_documents
from logitstore.progress import Progress
from logitstore.store.layout import PLAN
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
        longest: tokens of the longest sequence; 0 where it is known that the teacher can read all of them.
        tokens_sha256: one hash over all sequences, their lengths and document starts.
        empty_documents: documents that were left out, as they have no text.
    """

    data: list[dict[str, Any]]
    totals: PlanTotals
    longest: int
    tokens_sha256: str
    empty_documents: int


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


def recall_data(stored: Mapping[str, Any], files: list[Path], *, quiet: bool) -> Staged | None:
    """Return what pass 0 of a store found, if it read these very files; None where it must be run again.

    Only data is compared here, by its hashes: tokenizer and packing are fields of the manifest themselves.

    Args:
        stored: the manifest of the store.
        files: the data files named now, in order.
        quiet: no progress on stderr.
    """
    if not made_by_build(stored):
        return None
    data, plan = stored["data"], stored["plan"]
    # files after the one in which the limit was reached were never opened
    stopped_early = plan["tokens"] == stored["packing"]["limit_tokens"]
    if len(files) < len(data) or (len(files) > len(data) and not stopped_early):
        return None
    pairs = list(zip(files, data, strict=False))
    with suppress(OSError):  # pass 0 says what is wrong with a file
        if all(path.stat().st_size == record["bytes"] for path, record in pairs):
            with Progress("comparing data", sum(record["bytes"] for record in data), unit="bytes", quiet=quiet) as bar:
                if all(hash_file(path, bar.advance) == record["sha256"] for path, record in pairs):
                    return Staged(data, PlanTotals(plan["sequences"], plan["tokens"]), 0, plan["tokens_sha256"], 0)
    return None


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
