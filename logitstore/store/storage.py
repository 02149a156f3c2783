"""Where the files of a store lie. A file comes to be there whole, once, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from logitstore.errors import InvalidInput, StoreError
from logitstore.store.layout import ATTEMPTS

_CHUNK_BYTES = 1 << 22


class RangeReader(ABC):
    """Reads ranges of one file."""

    size: int

    @abstractmethod
    def read(self, start: int, length: int) -> bytes:
        """Return the bytes from `start` on, fewer than `length` where the file ends."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""


class Storage(ABC):
    """The files of one store, by their names below it (`layout`).

    Every method that meets the operating system or a server raises StoreError: kind "missing-file" where a file to be
    read is not there, "disk-full", "unwritable", "unreadable", or what the subclass names.

    Attributes:
        url: folder or address, for people.
    """

    url: str

    def where(self, name: str) -> str:
        """Return a file's own path or address, for people."""
        return f"{self.url}/{name}" if name else self.url

    @abstractmethod
    def below(self, name: str) -> Storage:
        """Return the files below a folder, as a place of their own."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Return whether a file is there."""

    @abstractmethod
    def is_occupied(self) -> bool:
        """Return whether anything is at the store's place already; an empty folder is nothing."""

    @abstractmethod
    def names(self, prefix: str = "") -> list[str]:
        """Return the names of all files, ascending; of those below the folder `prefix`, where it is given."""

    @abstractmethod
    def reader(self, name: str) -> RangeReader:
        """Open a file for reading ranges of it."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """Open a file as a seekable stream."""

    @abstractmethod
    def create_from(self, name: str, attempt: Path) -> bool:
        """Create a file, once, of what stands in `attempt`, which goes away; tell whether this call created it.

        Of several racing callers exactly one is told so.
        """

    @abstractmethod
    def scratch(self) -> Path:
        """Return a new path for a file that is still being written, for `create_from`."""

    @abstractmethod
    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are not there already count as removed."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Return how much room there is; None where that cannot be told."""

    @abstractmethod
    def total_bytes(self) -> int:
        """Return the size of all files."""

    def check_writable(self) -> None:  # noqa: B027 - most places need no look
        """Raise StoreError where it can be told beforehand that files cannot be created, once each."""

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        reader = self.reader(name)
        try:
            return reader.read(0, reader.size)
        finally:
            reader.close()

    def create(self, name: str, content: bytes) -> bool:
        """Create a file with `content`, once; tell whether this call created it."""
        attempt = self.scratch()
        try:
            with disk_errors(self.where(name)), attempt.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            return self.create_from(name, attempt)
        finally:
            with suppress(OSError):
                attempt.unlink(missing_ok=True)

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of a file, in hexadecimal."""
        found, reader = hashlib.sha256(), self.reader(name)
        try:
            for start in range(0, reader.size, _CHUNK_BYTES):
                found.update(reader.read(start, min(_CHUNK_BYTES, reader.size - start)))
        finally:
            reader.close()
        return found.hexdigest()

    def remove_below(self, prefixes: Iterable[str]) -> None:
        """Remove files, and all files of folders."""
        for prefix in prefixes:
            self.remove([prefix, *self.names(prefix)])


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
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


@contextmanager
def _read_errors(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise StoreError(f"{path} is missing.", kind="missing-file") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}.", kind="unreadable") from error


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


class _FileReader(RangeReader):
    def __init__(self, path: Path) -> None:
        self._path, self._descriptor = path, -1
        with _read_errors(str(path)):
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.size = os.fstat(self._descriptor).st_size

    def read(self, start: int, length: int) -> bytes:
        with _read_errors(str(self._path)):
            return os.pread(self._descriptor, length, start)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            self.close()


class LocalStorage(Storage):
    """A store in a folder of a file system with hard links."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.url = str(self.root)

    def below(self, name: str) -> Storage:
        return LocalStorage(self.root / name)

    def exists(self, name: str) -> bool:
        with _read_errors(self.where(name)):
            return (self.root / name).is_file()

    def is_occupied(self) -> bool:
        root = self.root
        with _read_errors(self.url):
            if root.is_dir() and not root.is_symlink():
                return any(root.iterdir())
            return root.exists() or root.is_symlink()

    def names(self, prefix: str = "") -> list[str]:
        found: list[str] = []
        with _read_errors(self.where(prefix)):
            for folder, _, files in os.walk(self.root / prefix, onerror=_raise_unless_missing):
                below = Path(folder).relative_to(self.root)
                found += [(below / name).as_posix() for name in files]
        return sorted(found)

    def reader(self, name: str) -> RangeReader:
        return _FileReader(self.root / name)

    def open(self, name: str) -> BinaryIO:
        with _read_errors(self.where(name)):
            return (self.root / name).open("rb")

    def scratch(self) -> Path:
        folder = self.root / ATTEMPTS
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder / uuid.uuid4().hex

    def create_from(self, name: str, attempt: Path) -> bool:
        target = self.root / name
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            # exactly one of several racing links is made; a rename would let each of them believe so
            try:
                os.link(attempt, target)
                won = True
            except FileExistsError:
                won = False
            attempt.unlink()
            sync_folder(target.parent)
        return won

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            path = self.root / name
            with disk_errors(path):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        with disk_errors(self.root), suppress(FileNotFoundError):
            sync_folder(self.root)

    def remove_below(self, prefixes: Iterable[str]) -> None:
        self.remove(prefixes)

    def free_bytes(self) -> int | None:
        existing = next(path for path in [self.root.absolute(), *self.root.absolute().parents] if path.exists())
        return shutil.disk_usage(existing).free

    def total_bytes(self) -> int:
        return sum((self.root / name).stat().st_size for name in self.names())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_storage(path: str | os.PathLike[str] | Storage) -> Storage:
    """Return where a store lies: a folder, or `s3://bucket/prefix`."""
    if isinstance(path, Storage):
        return path
    text = os.fspath(path)
    if text.startswith("s3:/") and not text.startswith("s3://"):
        raise InvalidInput(
            f"{text} is a pathlib.Path of an address, which loses a slash; give the address as a string."
        )
    if text.startswith("s3://"):
        from logitstore.store.object_storage import ObjectStorage

        return ObjectStorage(text)
    return LocalStorage(text)
