"""The manifest: what a store was made from, written before the first shard and never changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from logitstore.errors import InvalidInput, StoreError
from logitstore.store.layout import FORMAT_NAME, FORMAT_VERSION, MANIFEST, SEALED
from logitstore.store.storage import Storage

MAX_VOCAB_SIZE = 1 << 20

#: commands that make stores of stores, and the field that says so in what they make
DERIVED = {"thin": "thinned_from", "merge": "merged_from"}

#: fields that say where or when, and cannot change a byte of any sequence
_INFORMATION = ("created", "versions", "teacher.id", "teacher.gguf_file", "teacher.device")
_PACKAGES = ("logitstore", "torch", "numpy", "zarr", "pcodec", "numba", "pyarrow", "transformers", "tokenizers", "gguf")


def new_manifest(*, vocab_size: int, sampler: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a manifest with the format, the versions and `fields`.

    Raises:
        InvalidInput: the vocabulary is empty or beyond 2^20, or a field is not JSON.
    """
    if not 1 <= vocab_size <= MAX_VOCAB_SIZE:
        raise InvalidInput(f"vocab_size is {vocab_size}; 1 to {MAX_VOCAB_SIZE} was wanted.")
    manifest = {
        "format": FORMAT_NAME,
        "format_version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "vocab_size": vocab_size,
        "sampler": dict(sampler),
        **fields,
    }
    try:
        return dict(json.loads(json.dumps(manifest)))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"a field of the store's manifest is not JSON: {error}.") from None


def to_bytes(document: Mapping[str, Any]) -> bytes:
    """Return a manifest as it is stored: JSON for people to read."""
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def sha256(data: bytes) -> str:
    """Return the SHA-256 of `data`, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read_manifest(storage: Storage) -> dict[str, Any]:
    """Return the manifest of a finished or unfinished store.

    Raises:
        StoreError: kind "not-a-store", "newer-format", "unsupported-format" or "damaged".
    """
    path, url = storage.where(MANIFEST), storage.url
    if not storage.exists(MANIFEST):
        found = f"has no {MANIFEST}" if storage.is_occupied() else "does not exist, or is empty"
        raise StoreError(f"{url} is no store: it {found}. `logitstore build` makes one.", kind="not-a-store")
    manifest = _read_json(storage, MANIFEST)
    if manifest.get("format") != FORMAT_NAME:
        raise StoreError(f"{url} is no store: its {MANIFEST} is of something else.", kind="not-a-store")
    found_version = manifest.get("format_version")
    if not isinstance(found_version, int) or found_version < 1:
        raise StoreError(f"{path} has the format version {found_version!r}; a whole number was wanted.", kind="damaged")
    if found_version > FORMAT_VERSION:
        raise StoreError(
            f"{url} has format version {found_version}; this logitstore reads up to {FORMAT_VERSION}. "
            "Update logitstore (pip install -U logitstore).",
            kind="newer-format",
        )
    if found_version < FORMAT_VERSION:
        raise StoreError(
            f"{url} has format version {found_version}, which no release wrote and this one does not read. Build the "
            "store anew.",
            kind="unsupported-format",
        )
    return manifest


def sealed_bytes(sealed: Mapping[str, Any]) -> bytes:
    """Return the sealed manifest as it is stored: with a hash over itself."""
    return to_bytes({**sealed, "sha256": sha256(to_bytes(sealed))})


def read_sealed(storage: Storage) -> dict[str, Any]:
    """Return the sealed manifest.

    Raises:
        StoreError: kind "not-sealed" where the store is unfinished; "damaged" or "checksum-mismatch".
    """
    path = storage.where(SEALED)
    if not storage.exists(SEALED):
        raise StoreError(
            f"{storage.url} is unfinished: it has no {SEALED} yet. If no build is running on it, continue it with "
            "`logitstore build ... --resume`.",
            kind="not-sealed",
        )
    sealed = _read_json(storage, SEALED)
    stored = sealed.pop("sha256", None)
    if storage.read(SEALED) != to_bytes({**sealed, "sha256": stored}) or stored != sha256(to_bytes(sealed)):
        raise StoreError(f"{path} was changed: it does not have the hash it carries.", kind="checksum-mismatch")
    return sealed


def flatten(document: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested JSON under dotted names."""
    if isinstance(document, dict | list) and document:
        items = document.items() if isinstance(document, dict) else enumerate(document)
        return {name: leaf for key, value in items for name, leaf in flatten(value, f"{prefix}{key}.").items()}
    return {prefix.removesuffix("."): document}


def settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that can change a stored byte, under dotted names."""

    def informs(name: str) -> bool:
        is_data_name = name.startswith("data.") and name.endswith(".name")
        return is_data_name or any(name == field or name.startswith(f"{field}.") for field in _INFORMATION)

    return {name: value for name, value in flatten(dict(manifest)).items() if not informs(name)}


def check_same_settings(storage: Storage, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with a store that was made with other settings.

    Raises:
        StoreError: kind "settings-differ", naming each field with both values.
    """
    there, here = settings(stored), settings(wanted)
    names = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
    if names:
        lines = "; ".join(
            f"{name}: the store has {there.get(name)!r}, asked for was {here.get(name)!r}" for name in names
        )
        raise StoreError(
            f"{storage.url} was begun with other settings ({lines}). Resume with the settings it has, or build another store.",
            kind="settings-differ",
        )


def settings_sha256(manifest: Mapping[str, Any]) -> str:
    """Return one hash over all fields that can change a stored byte."""
    return sha256(json.dumps(settings(manifest), sort_keys=True).encode())


def _read_json(storage: Storage, name: str) -> dict[str, Any]:
    path = storage.where(name)
    try:
        document = json.loads(storage.read(name))
    except ValueError as error:
        raise StoreError(f"{path} cannot be read: {error}.", kind="damaged") from None
    if not isinstance(document, dict):
        raise StoreError(f"{path} holds no JSON object.", kind="damaged")
    return document


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
