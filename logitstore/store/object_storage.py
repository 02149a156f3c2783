"""Stores in a bucket, through obstore. Credentials and endpoint come from the usual AWS_* environment variables."""

from __future__ import annotations

import io
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from logitstore.errors import InvalidInput, StoreError
from logitstore.store.layout import ATTEMPTS
from logitstore.store.storage import RangeReader, Storage, disk_errors

#: a request that may be repeated is repeated for so long, with growing pauses
_RETRY_FOR = timedelta(seconds=120)
_MOST_RETRIES = 12
#: of a stream, read at once
_BUFFER_BYTES = 1 << 20


class ObjectStorage(Storage):
    """A store below a prefix of an S3 bucket.

    Files are created by one PUT with `If-None-Match: *`. An endpoint that ignores that header is refused when the first
    file is created. Requests that may be repeated are repeated, with growing pauses, for two minutes; a PUT that was
    repeated and finds its own content there counts as made.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        if not bucket or not prefix:
            raise InvalidInput(f"{url} names no place in a bucket; s3://bucket/name was wanted.")
        self._bucket, self._prefix = bucket, prefix
        self._is_checked = False

    @cached_property
    def _store(self) -> Any:
        try:
            from obstore.store import S3Store
        except ImportError:
            raise StoreError(f"{self.url} needs obstore: pip install 'logitstore[s3]'.", kind="extra-missing") from None
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        more: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
        if endpoint and endpoint.startswith("http://"):
            more["client_options"] = {"allow_http": True}
        return S3Store(
            self._bucket,
            prefix=self._prefix,
            retry_config={"max_retries": _MOST_RETRIES, "retry_timeout": _RETRY_FOR},
            **more,
        )

    def exists(self, name: str) -> bool:
        import obstore

        try:
            with self._errors(name):
                obstore.head(self._store, name)
        except StoreError as error:
            if error.kind == "missing-file":
                return False
            raise
        return True

    def is_occupied(self) -> bool:
        return next(self._list(""), None) is not None

    def names(self, prefix: str = "") -> list[str]:
        return sorted(name for name, _ in self._list(prefix))

    def reader(self, name: str) -> RangeReader:
        return _ObjectReader(self, name)

    def open(self, name: str) -> BinaryIO:
        return io.BufferedReader(_Stream(self.reader(name)), _BUFFER_BYTES)

    def read(self, name: str) -> bytes:
        import obstore

        with self._errors(name):
            return bytes(obstore.get(self._store, name).bytes())

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Return some bytes of an object that has at least so many."""
        import obstore

        with self._errors(name):
            return bytes(obstore.get_range(self._store, name, start=start, length=length))

    def size(self, name: str) -> int:
        """Return an object's size."""
        import obstore

        with self._errors(name):
            return int(obstore.head(self._store, name)["size"])

    def scratch(self) -> Path:
        return Path(tempfile.gettempdir()) / f"logitstore-{uuid.uuid4().hex}"

    def create_from(self, name: str, attempt: Path) -> bool:
        with disk_errors(attempt):
            content = attempt.read_bytes()
            attempt.unlink()
        return self.create(name, content)

    def create(self, name: str, content: bytes) -> bool:
        self._check_create_once()
        return self._create(name, content)

    def _create(self, name: str, content: bytes) -> bool:
        import obstore

        try:
            with self._errors(name):
                # one request, so that the condition holds for all of it
                obstore.put(self._store, name, content, mode="create", use_multipart=False)
        except StoreError as error:
            if error.kind != "exists":
                raise
            # the answer to our own earlier request may have been lost
            return self.read(name) == content
        return True

    def _check_create_once(self) -> None:
        """Refuse an endpoint that lets an object be created twice."""
        if self._is_checked:
            return
        name = f"{ATTEMPTS}/{uuid.uuid4().hex}"
        created = [self._create(name, content) for content in (b"first", b"second")]
        self.remove([name])
        if created != [True, False]:
            raise StoreError(
                f"the endpoint of {self.url} ignores If-None-Match: an object was created twice. Two builders could "
                "overwrite each other there; use an S3 that supports conditional writes.",
                kind="no-create-once",
            )
        self._is_checked = True

    def remove(self, names: Iterable[str]) -> None:
        import obstore

        for name in names:
            try:
                with self._errors(name):
                    obstore.delete(self._store, name)
            except StoreError as error:
                if error.kind != "missing-file":
                    raise

    def free_bytes(self) -> int | None:
        return None

    def total_bytes(self) -> int:
        return sum(size for _, size in self._list(""))

    def _list(self, prefix: str) -> Iterator[tuple[str, int]]:
        import obstore

        with self._errors(prefix):
            for batch in obstore.list(self._store, prefix or None):
                yield from ((str(item["path"]), int(item["size"])) for item in batch)

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """Turn what obstore raises into a StoreError."""
        from obstore import exceptions

        where = self.where(name)
        try:
            yield
        except (FileNotFoundError, exceptions.NotFoundError):
            raise StoreError(f"{where} is missing.", kind="missing-file") from None
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise StoreError(f"{where} exists.", kind="exists") from None
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise StoreError(f"{where} cannot be used: {_first_line(error)}.", kind="forbidden") from None
        except (exceptions.BaseError, OSError) as error:
            raise StoreError(
                f"{where} cannot be reached: {_first_line(error)}. Nothing committed is lost; try again later, then "
                "resume.",
                kind="unreachable",
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectStorage, (self.url,)


class _ObjectReader(RangeReader):
    def __init__(self, storage: ObjectStorage, name: str) -> None:
        self._storage, self._name = storage, name
        self.size = storage.size(name)

    def read(self, start: int, length: int) -> bytes:
        length = min(length, self.size - start)
        return self._storage.read_range(self._name, start, length) if length > 0 else b""

    def close(self) -> None:
        """Do nothing: every read is a request of its own."""


class _Stream(io.RawIOBase):
    """A reader of ranges as a stream."""

    def __init__(self, reader: RangeReader) -> None:
        self._reader, self._at = reader, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._reader.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        found = self._reader.read(self._at, len(buffer))
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
