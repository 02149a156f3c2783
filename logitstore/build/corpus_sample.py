"""What a corpus holds: counted where it is small, told by an even sample of its text where it is large."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from logitstore.build.documents import Document, DocumentReader
from logitstore.build.options import BuildOptions
from logitstore.build.packing import pack_documents
from logitstore.build.plan import evenly_spread
from logitstore.build.sampling import PlannedSequence
from logitstore.build.staging import Packing, stage_data
from logitstore.build.tokenize import Encode, encode_documents
from logitstore.progress import Progress
from logitstore.store.layout import PLAN
from logitstore.store.plan_file import read_plan, write_plan
from logitstore.store.storage import LocalStorage

#: data files up to this size, and limits up to so many tokens, are tokenised whole: about a minute
_COUNTED_BYTES = 1 << 26
_COUNTED_TOKENS = 1 << 24
#: a larger corpus is read whole, cut into chunks of about this many characters, and an even sample of them is
#: tokenised: between half of `_MOST_CHUNKS` and all of them
_CHUNK_CHARACTERS = 1 << 16
_MOST_CHUNKS = 256
_BYTES_OF_AN_ID = 4


@dataclass(frozen=True)
class CorpusSample:
    """A corpus, and the plan of those of its sequences that are at hand.

    Attributes:
        folder: holds the plan of the sequences at hand, packed as a build packs them.
        num_planned: sequences in it.
        planned_tokens: tokens in it.
        longest: tokens of the longest of them.
        sequences: sequences of the corpus.
        tokens: tokens of the corpus as a build stores them, within the limit asked for; BOS and end-of-document
            tokens are among them.
        data_bytes: bytes of text (UTF-8) or of token ids (4 each) in the corpus; None where all was tokenised, so
            that `sequences` and `tokens` are counts, no extrapolations.
        tokenised_bytes: how many of them were tokenised.
    """

    folder: Path
    num_planned: int
    planned_tokens: int
    longest: int
    sequences: int
    tokens: int
    data_bytes: int | None = None
    tokenised_bytes: int | None = None

    def spread(self, positions: int) -> list[tuple[int, PlannedSequence]]:
        """Return some whole sequences with about so many positions, evenly spread over the corpus, with their indexes."""
        count = min(self.num_planned, max(1, round(positions * self.num_planned / self.planned_tokens)))
        indexes = evenly_spread(self.num_planned, count)
        return [
            (index, sequence)
            for index in indexes
            for sequence in read_plan(LocalStorage(self.folder), index, index + 1)
        ]


def sample_corpus(
    folder: Path, files: list[Path], packing: Packing, encode: Encode | None, vocab_size: int, options: BuildOptions
) -> CorpusSample:
    """Tokenise the data, or an even sample of it, into the plan of `folder`.

    Raises:
        InvalidInput: the data cannot be read, has no tokens, or they do not fit the teacher.
        StoreError: kind "disk-full".
    """
    size = sum(file.stat().st_size for file in files)
    if size > _COUNTED_BYTES and (packing.limit_tokens is None or packing.limit_tokens > _COUNTED_TOKENS):
        return _extrapolated(folder, files, packing, encode, vocab_size, options)
    staged = stage_data(
        folder,
        files,
        packing,
        encode=encode,
        vocab_size=vocab_size,
        text_field=options.text_field,
        tokens_field=options.tokens_field,
        quiet=options.quiet,
    )
    sequences, tokens = staged.totals.sequences, staged.totals.tokens
    return CorpusSample(folder, sequences, tokens, staged.longest, sequences, tokens)


def _extrapolated(
    folder: Path, files: list[Path], packing: Packing, encode: Encode | None, vocab_size: int, options: BuildOptions
) -> CorpusSample:
    """Read all of the data, tokenise an even sample of it, and scale what that gives by bytes."""
    reader = DocumentReader(files, text_field=options.text_field, tokens_field=options.tokens_field)
    chunks, data_bytes = _even_sample(reader, options.quiet)
    documents = [document for chunk in chunks for document in chunk]
    tokenised = sum(map(_num_bytes, documents))
    longest = 0

    def planned(progress: Progress) -> Iterator[PlannedSequence]:
        nonlocal longest
        encoded = encode_documents(
            documents,
            encode=encode,
            vocab_size=vocab_size,
            bos_id=packing.bos_id,
            progress=lambda _, tokens: progress.advance(tokens - progress.done),
        )
        for sequence in pack_documents(
            (document.tokens for document in encoded),
            seq_len=packing.seq_len,
            pack=packing.pack,
            bos_id=packing.bos_id,
            eod_id=packing.eod_id,
        ):
            longest = max(longest, len(sequence.tokens))
            yield sequence.tokens, sequence.document_starts

    with Progress("tokenising a sample", None, unit="tokens", quiet=options.quiet) as progress:
        totals = write_plan(folder / PLAN, planned(progress))
    tokens = round(totals.tokens * data_bytes / tokenised)
    tokens = tokens if packing.limit_tokens is None else min(tokens, packing.limit_tokens)
    sequences = max(1, round(totals.sequences * tokens / totals.tokens))
    return CorpusSample(folder, totals.sequences, totals.tokens, longest, sequences, tokens, data_bytes, tokenised)


def _even_sample(documents: Iterable[Document], quiet: bool) -> tuple[list[list[Document]], int]:
    """Return every 2^k-th chunk of the corpus, with the least k that leaves few enough, and the bytes of all chunks."""
    kept: list[list[Document]] = []
    step, seen, data_bytes = 1, 0, 0
    with Progress("reading", None, unit="bytes", quiet=quiet) as progress:
        for chunk in _chunks(documents):
            if seen % step == 0:
                kept.append(chunk)
                if len(kept) > _MOST_CHUNKS:
                    kept, step = kept[::2], 2 * step
            seen += 1
            size = sum(map(_num_bytes, chunk))
            data_bytes += size
            progress.advance(size)
    return kept, data_bytes


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Yield runs of documents, or of pieces of long ones, of at least `_CHUNK_CHARACTERS` together."""
    chunk: list[Document] = []
    size = 0
    for document in documents:
        for piece in _pieces(document):
            chunk.append(piece)
            size += _length(piece)
            if size >= _CHUNK_CHARACTERS:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk


def _pieces(document: Document) -> Iterator[Document]:
    """Yield a document in pieces of up to `_CHUNK_CHARACTERS`; text is cut after white space, where there is some."""
    start, length = 0, _length(document)
    while start < length:
        stop = min(start + _CHUNK_CHARACTERS, length)
        if document.tokens is not None:
            yield replace(document, tokens=document.tokens[start:stop])
        elif document.text is not None:
            if stop < length:
                stop = max(document.text.rfind(end, start, stop) for end in (" ", "\n")) + 1 or stop
            yield replace(document, text=document.text[start:stop])
        start = stop


def _length(document: Document) -> int:
    """Return how many characters or token ids a document has."""
    content = document.tokens if document.text is None else document.text
    return 0 if content is None else len(content)


def _num_bytes(document: Document) -> int:
    if document.text is None:
        return _BYTES_OF_AN_ID * _length(document)
    return len(document.text.encode())
