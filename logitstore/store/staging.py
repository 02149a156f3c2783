"""Places that fill up whole: files are made in a folder beside them, and become visible at the end."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from logitstore.errors import StoreError
from logitstore.store.layout import ATTEMPTS, MANIFEST
from logitstore.store.storage import LocalStorage, Storage, disk_errors, sync_folder


@contextmanager
def staging_folder(storage: Storage) -> Iterator[Path]:
    """Make a folder to fill: hidden, beside a local place, or a temporary one. It goes away at the end."""
    if isinstance(storage, LocalStorage):
        root = storage.root.absolute()
        folder = root.parent / f".{root.name}.staging-{uuid.uuid4().hex[:8]}"
    else:
        folder = Path(tempfile.gettempdir()) / f"logitstore-staging-{uuid.uuid4().hex[:8]}"
    with disk_errors(folder):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
    for name in LocalStorage(folder).names():
        with disk_errors(folder / name), (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)
    try:
        os.rename(folder, root)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise StoreError(f"{root} exists by now: another process was quicker.", kind="exists") from None
        raise StoreError(f"{root} cannot be made: {error.strerror}.", kind="unwritable") from error
    sync_folder(root.absolute().parent)


def _upload(folder: Path, storage: Storage) -> None:
    names = [name for name in LocalStorage(folder).names() if not name.startswith(f"{ATTEMPTS}/")]
    for name in sorted(names, key=lambda name: (name == MANIFEST, name)):
        content = (folder / name).read_bytes()
        # without a manifest nobody uses what is there; the same call after a stop finds its own files
        if not storage.create(name, content) and storage.read(name) != content:
            raise StoreError(
                f"{storage.where(name)} is there already, of another process or of one that stopped with other "
                f"settings. Remove all below {storage.url}, or choose another place.",
                kind="exists",
            )
