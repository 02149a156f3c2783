"""Checking a whole store against its own records. It repairs nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from logitstore import codec
from logitstore.errors import InvalidInput, StoreError
from logitstore.store import layout
from logitstore.store.commit import describe_blob
from logitstore.store.convert import check_sums, to_targets
from logitstore.store.generation import Generation, check_file
from logitstore.store.index import read_table
from logitstore.store.reader import open_store
from logitstore.targets import check_ids

#: files that each store has once
_ONCE = {layout.MANIFEST, layout.SEALED, layout.TABLE}


@dataclass(frozen=True)
class Finding:
    """Something wrong in a store.

    Attributes:
        kind: the stable kind of the error.
        where: file or sequence.
        message: what was found and what was wanted.
    """

    kind: str
    where: str
    message: str

    def to_dict(self) -> dict[str, str]:
        """Return the finding as JSON."""
        return asdict(self)


def verify_store(path: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None) -> list[Finding]:
    """Read every byte of a store, and return what is wrong with it: nothing, where the list is empty.

    Checked are the hashes of manifest, index, Zarr's metadata and shards; each sequence's checksum, its row in the index, its tokens'
    hash, the range of its ids and the sum of its weights; and files that do not belong there.

    Args:
        path: the store's folder or address.
        progress: called with the sequences done and their number.

    Raises:
        StoreError: kind "not-a-store", "not-sealed" or "newer-format": there is nothing to verify.
    """
    try:
        store = open_store(path)
    except StoreError as error:
        if error.kind in StoreError.refused_kinds:
            raise
        return [Finding(error.kind, str(path), str(error))]
    findings: list[Finding] = []
    for number, generation in enumerate(store.generations):
        prefix = f"{layout.generation_name(number)}/" if number else ""
        found = list(_check_files(generation, prefix))
        findings += found
        unreadable = {f"{prefix}{name}" for name in (layout.INDEX, layout.TABLE)}
        if not any(finding.where in unreadable for finding in found):  # else no sequence can be read
            findings += _check_sequences(generation, prefix, len(store), progress or (lambda done, total: None))
    return findings


def _check_files(generation: Generation, prefix: str) -> Iterator[Finding]:
    storage, sealed = generation.storage, generation.manifest["sealed"]
    named = {layout.INDEX: sealed["index_sha256"]} | sealed["metadata_sha256"]
    named |= {shard["shard"]: shard["sha256"] for shard in sealed["shards"]}
    for name, sha256 in named.items():
        try:
            check_file(storage, name, sha256)
        except StoreError as error:
            yield Finding(error.kind, f"{prefix}{name}", str(error))
    try:
        generation.table  # noqa: B018 - it is read, and checked, here
    except StoreError as error:
        yield Finding(error.kind, f"{prefix}{layout.TABLE}", str(error))
    expected = named.keys() | _ONCE
    # what was appended is checked by itself, and what is being appended is nobody's yet
    elsewhere = {*layout.SCAFFOLDING, *(() if prefix else (layout.GENERATIONS,))}
    for name in storage.names():
        if name not in expected and name.split("/")[0] not in elsewhere:
            yield Finding("orphan", f"{prefix}{name}", f"{prefix}{name} is no part of this store.")


def _check_sequences(
    generation: Generation, prefix: str, total: int, progress: Callable[[int, int], None]
) -> Iterator[Finding]:
    rows = read_table(generation.storage).drop_columns(["document_starts"]).to_pylist()
    if len(rows) != len(generation):
        text = f"the index has {len(rows)} rows, the seal says {len(generation)}."
        yield Finding("damaged", f"{prefix}{layout.INDEX}", text)
        return
    for place, row in enumerate(rows):
        try:
            _check_sequence(generation, place, row)
        except (StoreError, InvalidInput) as error:
            yield Finding(error.kind, f"sequence {generation.first + place}", str(error))
        progress(generation.first + place + 1, total)


def _check_sequence(generation: Generation, place: int, row: dict[str, Any]) -> None:
    number, vocab_size = generation.first + place, generation.manifest["vocab_size"]
    blob = generation.read_blob(place)
    arrays = codec.decode(blob, generation.table)
    codec.check_sequence(arrays)
    found = describe_blob(place, blob, arrays)
    differing = [name for name, value in found.items() if row[name] != value]
    if differing:
        name = differing[0]
        text = f"sequence {number} has {name} {_short(found[name])}, the index says {_short(row[name])}."
        raise StoreError(text, kind="alignment-mismatch")
    if int(arrays.tokens.max()) >= vocab_size or int(arrays.tokens.min()) < 0:
        raise StoreError(f"sequence {number} has tokens outside of the vocabulary.", kind="id-out-of-range")
    targets = to_targets(arrays, generation.weighting)
    check_ids(targets.ids, vocab_size, what=f"sequence {number}")
    check_sums(targets, generation.weighting, f"sequence {number}", stored=True)


def _short(value: Any) -> Any:
    return value.hex()[:16] if isinstance(value, bytes) else value
