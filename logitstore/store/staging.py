"""Places that fill up whole: files are made in a folder beside them, and become visible at the end."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from logitstore.errors import StoreError
from logitstore.store.layout import ATTEMPTS, MANIFEST
from logitstore.store.storage import LocalStorage, Storage, disk_errors, sync_folder

#: of a staging folder's name: what tells it from others beside the same place
_TAG_LENGTH = 8


@contextmanager
def staging_folder(storage: Storage) -> Iterator[Path]:
    """Make a folder to fill: hidden, beside a local place, or a temporary one. It goes away at the end."""
    if isinstance(storage, LocalStorage):
        root = storage.root.absolute()
        folder = root.parent / f".{root.name}.staging-{uuid.uuid4().hex[:_TAG_LENGTH]}"
    else:
        storage.check_writable()
        folder = Path(tempfile.gettempdir()) / f"logitstore-staging-{uuid.uuid4().hex[:_TAG_LENGTH]}"
    _remove_abandoned(folder)
    descriptor = _locked_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _locked_folder(folder: Path) -> int:
    """Make a folder and lock it; the system lets go of the lock when the process ends, however it ends."""
    while True:
        with disk_errors(folder):
            folder.mkdir(parents=True)
            descriptor = os.open(folder, os.O_RDONLY)
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if folder.exists():
            return descriptor
        os.close(descriptor)  # another process took it for abandoned before it was locked


def _remove_abandoned(folder: Path) -> None:
    """Remove folders that processes left which were killed while they filled them."""
    others: list[Path] = []
    with suppress(OSError):
        others += folder.parent.glob(f"{glob.escape(folder.name[:-_TAG_LENGTH])}*")
    for other in others:
        with suppress(OSError):
            descriptor = os.open(other, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(other, ignore_errors=True)
            finally:
                os.close(descriptor)


def publish_folder(folder: Path, storage: Storage) -> None:
    """Let the staged folder become the place: a folder by its name, a bucket file by file, the manifest last.

    Raises:
        StoreError: kind "exists", where something else is there by now.
    """
    if isinstance(storage, LocalStorage):
        _rename(folder, storage.root)
    else:
        _upload(folder, storage)


def _rename(folder: Path, root: Path) -> None:
    with disk_errors(folder):
        for name in LocalStorage(folder).names():
            with (folder / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(folder)
    try:
        os.rename(folder, root)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise StoreError(f"{root} exists by now: another process was quicker.", kind="exists") from None
        raise StoreError(f"{root} cannot be made: {error.strerror}.", kind="unwritable") from error
    with disk_errors(root):
        sync_folder(root.absolute().parent)


def _upload(folder: Path, storage: Storage) -> None:
    names = [name for name in LocalStorage(folder).names() if not name.startswith(f"{ATTEMPTS}/")]
    for name in sorted(names, key=lambda name: (name == MANIFEST, name)):
        sha256 = LocalStorage(folder).sha256(name)
        # without a manifest nobody uses what is there; the same call after a stop finds its own files
        if not storage.create_from(name, folder / name) and storage.sha256(name) != sha256:
            raise StoreError(
                f"{storage.where(name)} is there already, of another process or of one that stopped with other "
                f"settings. Remove all below {storage.url}, or choose another place.",
                kind="exists",
            )
