"""Where things lie in a store's folder, and how a file comes to be there: whole, once, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from logitstore.errors import StoreError

FORMAT_NAME = "logitstore"
#: version of everything in a store's folder: this layout, the manifest, the index and the blobs
FORMAT_VERSION = 2

MANIFEST = "manifest.json"
SEALED = "sealed.json"
INDEX = "index.parquet"
PLAN = "plan.parquet"
TABLE = "frequencies.bin"
PILOT = "pilot.parquet"
GROUP = "zarr.json"
ARRAY = "sequences"
COMMITS = "commits"
ATTEMPTS = "attempts"
#: what only an unfinished store needs
SCAFFOLDING = (PLAN, PILOT, COMMITS, ATTEMPTS)


def shard_name(unit: int) -> str:
    """Return a shard's path below the store: the key of that chunk in the Zarr array."""
    return f"{ARRAY}/c/{unit}"


def commit_name(unit: int) -> str:
    """Return the path of a work unit's commit record below the store."""
    return f"{COMMITS}/{unit:08d}.parquet"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says of a write into a StoreError: "disk-full", "no-hard-links" or "unwritable"."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileExistsError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"the disk is full while writing {path}. Nothing committed is lost: make space, then resume."
            raise StoreError(text, kind="disk-full") from error
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK) and error.filename2:
            text = f"the file system of {path} has no hard links, which commits need. Put the store on a local disk."
            raise StoreError(text, kind="no-hard-links") from error
        raise StoreError(f"{path} cannot be written: {error.strerror or error}.", kind="unwritable") from error


def attempt_path(root: Path) -> Path:
    """Return a new name below the store for a file that is still being written."""
    folder = root / ATTEMPTS
    with disk_errors(folder):
        folder.mkdir(exist_ok=True)
    return folder / uuid.uuid4().hex


def publish(attempt: Path, target: Path) -> bool:
    """Give a file that is written and synced its lasting name; tell whether this call was the one that did it.

    Exactly one of several racing callers wins, as `link` fails where the name is taken (a rename would not). The
    attempt's own name goes away either way.
    """
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(attempt, target)
            won = True
        except FileExistsError:
            won = False
        attempt.unlink()
        sync_folder(target.parent)
    return won


def publish_bytes(root: Path, name: str, data: bytes) -> bool:
    """Create the file `name` below the store with `data`, once; tell whether this call created it."""
    attempt = attempt_path(root)
    try:
        with disk_errors(root / name), attempt.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return publish(attempt, root / name)
    finally:
        attempt.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_scaffolding(root: Path) -> None:
    """Remove what a sealed store no longer needs."""
    for name in SCAFFOLDING:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    sync_folder(root)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_bytes(root: Path) -> int:
    """Return the size of all files below a folder."""
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
