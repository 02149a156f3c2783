"""Checking a whole store against its own records. It repairs nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from logitstore import codec
from logitstore.errors import InvalidInput, StoreError
from logitstore.store import layout
from logitstore.store.convert import Weighting, check_sums, to_targets
from logitstore.store.index import read_table
from logitstore.store.reader import Store, check_file, open_store
from logitstore.store.writer import describe_blob
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
    findings = list(_check_files(store))
    if any(finding.where in (layout.INDEX, layout.TABLE) for finding in findings):
        return findings  # no sequence can be read
    return findings + list(_check_sequences(store, progress or (lambda done, total: None)))


def _check_files(store: Store) -> Iterator[Finding]:
    sealed = store.manifest["sealed"]
    named = {layout.INDEX: sealed["index_sha256"]} | sealed["metadata_sha256"]
    named |= {shard["shard"]: shard["sha256"] for shard in sealed["shards"]}
    for name, sha256 in named.items():
        try:
            check_file(store.storage, name, sha256)
        except StoreError as error:
            yield Finding(error.kind, name, str(error))
    try:
        store.table  # noqa: B018 - it is read, and checked, here
    except StoreError as error:
        yield Finding(error.kind, layout.TABLE, str(error))
    expected = named.keys() | _ONCE
    for name in store.storage.names():
        if name not in expected and name.split("/")[0] not in layout.SCAFFOLDING:
            yield Finding("orphan", name, f"{name} is no part of this store.")


def _check_sequences(store: Store, progress: Callable[[int, int], None]) -> Iterator[Finding]:
    table = read_table(store.storage)
    rows = table.drop_columns(["document_starts"]).to_pylist()
    if len(rows) != len(store):
        text = f"the index has {len(rows)} rows, the seal says {len(store)}."
        yield Finding("damaged", layout.INDEX, text)
        return
    weighting = Weighting.of(store.manifest)
    for index, row in enumerate(rows):
        try:
            _check_sequence(store, index, row, weighting)
        except (StoreError, InvalidInput) as error:
            yield Finding(error.kind, f"sequence {index}", str(error))
        progress(index + 1, len(rows))


def _check_sequence(store: Store, index: int, row: dict[str, Any], weighting: Weighting) -> None:
    blob = store.read_blob(index)
    arrays = codec.decode(blob, store.table)
    codec.check_sequence(arrays)
    found = describe_blob(index, blob, arrays)
    differing = [name for name, value in found.items() if row[name] != value]
    if differing:
        name = differing[0]
        text = f"sequence {index} has {name} {_short(found[name])}, the index says {_short(row[name])}."
        raise StoreError(text, kind="alignment-mismatch")
    if int(arrays.tokens.max()) >= store.manifest["vocab_size"] or int(arrays.tokens.min()) < 0:
        raise StoreError(f"sequence {index} has tokens outside of the vocabulary.", kind="id-out-of-range")
    targets = to_targets(arrays, weighting)
    check_ids(targets.ids, store.manifest["vocab_size"], what=f"sequence {index}")
    check_sums(targets, weighting, f"sequence {index}", stored=True)


def _short(value: Any) -> Any:
    return value.hex()[:16] if isinstance(value, bytes) else value
