"""Folders that appear whole: they are filled beside their place, and renamed at the end."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from logitstore.errors import StoreError
from logitstore.store.layout import disk_errors, sync_folder


@contextmanager
def staging_folder(root: Path) -> Iterator[Path]:
    """Make a hidden folder beside `root`; it goes away at the end, unless it became `root`."""
    folder = root.absolute().parent / f".{root.name}.staging-{uuid.uuid4().hex[:8]}"
    with disk_errors(folder):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish_folder(folder: Path, root: Path) -> None:
    """Let the staged folder become `root`.

    Raises:
        StoreError: kind "exists", where something else is there by now.
    """
    sync_folder(folder)
    try:
        os.rename(folder, root)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise StoreError(f"{root} exists by now: another process was quicker.", kind="exists") from None
        raise StoreError(f"{root} cannot be made: {error.strerror}.", kind="unwritable") from error
    sync_folder(root.absolute().parent)
