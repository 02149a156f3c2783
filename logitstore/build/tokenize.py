"""From documents to token ids, whichever way a data set keeps them."""

# N tokens of a document

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore.build.documents import Document
from logitstore.errors import InvalidInput

#: text in, token ids out, without any special tokens of the tokenizer's own accord
Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True, eq=False)
class EncodedDocument:
    """The token ids of one document.

    Attributes:
        file_index: index of its file in the reader's list.
        where: file and place, for messages.
        tokens: [N] int32, N >= 1, without BOS and end-of-document token: packing adds those.
    """

    file_index: int
    where: str
    tokens: NDArray[np.int32]


def encode_documents(
    documents: Iterable[Document],
    *,
    encode: Encode | None,
    vocab_size: int,
    bos_id: int | None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[EncodedDocument]:
    """Yield the documents as token ids that fit the vocabulary, one by one.

    A document of token ids loses one leading `bos_id`, if it begins with it. A document left without tokens is
    skipped as empty.

    Args:
        documents: such as a `DocumentReader` yields.
        encode: the teacher's tokenizer, adding no special tokens; None where the teacher has none.
        vocab_size: ids from 0 to `vocab_size` - 1 are accepted.
        bos_id: the token that packing puts first in each sequence; None where it puts none.
        progress: called after each document with the documents and the tokens encoded so far.

    Raises:
        InvalidInput: kind "token-out-of-range", naming document, index and id; "no-tokenizer", a document is text
            and `encode` is None; "data-empty", no document has any token.
    """
    num_documents = num_tokens = 0
    for document in documents:
        tokens = _token_ids(document, encode)
        first = int(document.text is None and len(tokens) > 0 and tokens[0] == bos_id)
        tokens = tokens[first:]
        if len(tokens) == 0:
            continue
        _check_range(tokens, vocab_size, document.where, first)
        num_documents += 1
        num_tokens += len(tokens)
        yield EncodedDocument(document.file_index, document.where, tokens.astype(np.int32, copy=False))
        if progress is not None:
            progress(num_documents, num_tokens)
    if num_documents == 0:
        raise InvalidInput("the data has no tokens: its documents are empty or a BOS alone.", kind="data-empty")


def _token_ids(document: Document, encode: Encode | None) -> NDArray[Any]:
    if document.tokens is not None:
        return document.tokens
    if document.text is None:
        raise InvalidInput(f"{document.where} has neither text nor tokens; one of them was wanted.")
    if encode is None:
        raise InvalidInput(
            f"{document.where} is text, but the teacher has no tokenizer to read it with. Give token ids in a .jsonl "
            "or .parquet file and name their field with --tokens-field (tokens_field=), or use a teacher that has one.",
            kind="no-tokenizer",
        )
    found = encode(document.text)
    tokens: NDArray[Any] = np.asarray(found)
    if tokens.ndim != 1 or (len(tokens) and tokens.dtype.kind not in "iu"):
        raise InvalidInput(f"{document.where}: the tokenizer gave {type(found).__name__}; a list of ids was wanted.")
    return tokens


def _check_range(tokens: NDArray[Any], vocab_size: int, where: str, first: int) -> None:
    """Raise InvalidInput at the first id outside the vocabulary; `first` is the index in the document of tokens[0]."""
    if tokens.min() >= 0 and tokens.max() < vocab_size:
        return
    index = int(np.flatnonzero((tokens < 0) | (tokens >= vocab_size))[0])
    raise InvalidInput(
        f"{where}: token {first + index} of the document is id {int(tokens[index])}, outside the teacher's vocabulary "
        f"of {vocab_size} (ids 0 to {vocab_size - 1}). Was the data made with another tokenizer?",
        kind="token-out-of-range",
    )
