"""From documents to sequences: packed end to end into rows of one length, or each document by itself."""

# N tokens of a document, S tokens of a sequence

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from logitstore.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class PackedSequence:
    """One sequence to store.

    Attributes:
        tokens: [S] int32, BOS first where there is one.
        document_starts: where documents begin, ascending int32 offsets into `tokens`; the first token of a document
            itself, not a BOS before it, and not where a document goes on from an earlier sequence.
    """

    tokens: NDArray[np.int32]
    document_starts: NDArray[np.int32]


def pack_documents(
    documents: Iterable[NDArray[np.int32]],
    *,
    seq_len: int,
    pack: bool = True,
    bos_id: int | None,
    eod_id: int | None,
    limit_tokens: int | None = None,
) -> Iterator[PackedSequence]:
    """Return an iterator over the sequences that documents make.

    A document is followed by `eod_id`, the last one too, unless it ends with it already. Each sequence is `bos_id`
    and then the next tokens, up to `seq_len` in all, so BOS never stands alone; the last sequence may be shorter.
    Packed, documents follow each other without regard to sequence ends; apart, no sequence has tokens of two
    documents. Documents without tokens are skipped. Memory is one sequence and the documents it draws on, time is
    linear in the tokens, and no document is taken before it is needed.

    Args:
        documents: token ids without BOS, each [N] int32; not copied until they are stored.
        seq_len: tokens of a sequence, BOS included; at least 2 with BOS, 1 without.
        pack: whether a sequence may hold several documents.
        bos_id: token at the start of each sequence, or None.
        eod_id: token at the end of each document, or None.
        limit_tokens: stop after exactly this many tokens of all sequences together, BOS and end-of-document tokens
            counted; the last sequence is cut there. Where the cut would leave a BOS alone it is left out, which makes
            one token less. At least 2 with BOS, 1 without.

    Raises:
        InvalidInput: at once, `seq_len` or `limit_tokens` is too small; while iterating, a document is no [N] int32.
    """
    least = 1 if bos_id is None else 2
    _check_length("seq_len", seq_len, least)
    if limit_tokens is not None:
        _check_length("limit_tokens", limit_tokens, least)
    return _sequences(documents, _Row(seq_len, bos_id, limit_tokens), pack, eod_id)


def _sequences(
    documents: Iterable[NDArray[np.int32]], row: _Row, pack: bool, eod_id: int | None
) -> Iterator[PackedSequence]:
    end = np.array([] if eod_id is None else [eod_id], dtype=np.int32)
    for document in documents:
        _check_document(document)
        if len(document) == 0:
            continue
        row.begin_document()
        for part in (document, end[:0] if document[-1] == eod_id else end):
            taken = 0
            while taken < len(part):
                taken += row.add(part[taken:])
                if row.full:
                    yield row.finish()
                    if row.limit_reached:
                        return
        if not pack and row.begun:
            yield row.finish()
            if row.limit_reached:
                return
    if row.begun:
        yield row.finish()


class _Row:
    """The sequence being filled, and the tokens of those before it."""

    def __init__(self, seq_len: int, bos_id: int | None, limit_tokens: int | None) -> None:
        self._seq_len = seq_len
        self._head = np.array([] if bos_id is None else [bos_id], dtype=np.int32)
        self._tokens_left = limit_tokens
        self._start()

    def _start(self) -> None:
        self._parts = [self._head]
        self._length = len(self._head)
        self._document_starts: list[int] = []
        self._capacity = self._seq_len if self._tokens_left is None else min(self._seq_len, self._tokens_left)

    @property
    def begun(self) -> bool:
        """Whether there is more than BOS in it."""
        return self._length > len(self._head)

    @property
    def full(self) -> bool:
        return self._length == self._capacity

    @property
    def limit_reached(self) -> bool:
        """Whether no further sequence fits: what is left of the limit is nothing, or a BOS alone."""
        return self._capacity <= len(self._head)

    def begin_document(self) -> None:
        """Note that the next token begins a document."""
        self._document_starts.append(self._length)

    def add(self, tokens: NDArray[np.int32]) -> int:
        """Take as many of `tokens` as fit, without copying them, and return how many that are."""
        part = tokens[: self._capacity - self._length]
        self._parts.append(part)
        self._length += len(part)
        return len(part)

    def finish(self) -> PackedSequence:
        """Return the sequence, and start the next one."""
        sequence = PackedSequence(np.concatenate(self._parts), np.array(self._document_starts, dtype=np.int32))
        if self._tokens_left is not None:
            self._tokens_left -= self._length
        self._start()
        return sequence


def _check_length(name: str, value: int, least: int) -> None:
    if type(value) is not int or value < least:
        why = ", as the first token of every sequence is BOS" if least == 2 else ""
        raise InvalidInput(f"{name} is {value!r}; a whole number of at least {least} was wanted{why}.")


def _check_document(document: NDArray[np.int32]) -> None:
    if document.dtype != np.int32 or document.ndim != 1:
        raise InvalidInput(f"a document is {document.dtype} with shape {document.shape}; int32 [N] was wanted.")
