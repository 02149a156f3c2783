"""Stores in a bucket, through obstore. Credentials and endpoint come from the usual AWS_* environment variables."""

from __future__ import annotations

import io
import mmap
import os
import random
import re
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from logitstore.errors import InvalidInput, StoreError
from logitstore.store import object_requests
from logitstore.store.layout import ATTEMPTS, PILOT, PLAN, TABLE
from logitstore.store.object_requests import OtherProcess, RequestFailed
from logitstore.store.range_stream import RangeStream
from logitstore.store.storage import RangeReader, Storage, disk_errors

T = TypeVar("T")

#: requests that another try may help are repeated for so long, after pauses that double from the first to the longest
RETRY_SECONDS = 120.0
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 10.0
#: the same where credentials are missing, which a cloud's own service may hand out a little later
_CREDENTIALS_SECONDS = 5.0
#: longest time for one request, and what it may send in that time; larger ones get more
REQUEST_SECONDS = 30.0
_BYTES_PER_SECOND = 1_000_000
#: of an object, asked for at once
_READ_BYTES = 1 << 24
#: of a stream, read at once
_BUFFER_BYTES = 1 << 20
#: names looked at to see whether a place is taken
_ENOUGH_NAMES = 1000
#: what the beginning of a build puts there before the manifest, and may leave where it stops
_BEFORE_MANIFEST = (PLAN, PILOT, TABLE)

_KINDS = {
    "missing": "missing-file",
    "no-bucket": "missing-bucket",
    "forbidden": "forbidden",
    "refused": "forbidden",
    "short": "truncated",
    "no-credentials": "forbidden",
    "no-extra": "extra-missing",
    "transient": "unreachable",
}
#: draws pauses; not the global generator, whose numbers are the user's
_RANDOM = random.SystemRandom()


class _Forked:
    """Whether this process was forked after obstore was loaded, and what makes its requests then."""

    is_forked = False
    other: OtherProcess | None = None

    @classmethod
    def note(cls) -> None:
        if "obstore" in sys.modules:
            cls.is_forked, cls.other = True, OtherProcess()


os.register_at_fork(after_in_child=_Forked.note)


class ObjectStorage(Storage):
    """A store below a prefix of an S3 bucket; may be pickled, and used after a fork.

    Files are created by one PUT with `If-None-Match: *`; an endpoint that ignores that header is refused before the
    first is. Requests are repeated, with growing pauses, for two minutes, where another try may help. A PUT that was
    repeated and finds its own content there counts as made.

    Raises:
        StoreError: kind "missing-file", "missing-bucket", "forbidden" (the server refuses, or there are no
            credentials), "unreachable", "no-create-once" or "extra-missing" (obstore is not installed).
    """

    def __init__(self, url: str) -> None:
        bucket, _, prefix = url.removeprefix("s3://").rstrip("/").partition("/")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", bucket):
            # it is not repeated: it may hold a key
            raise InvalidInput("an s3:// address has no proper bucket name; s3://bucket/name was wanted.")
        if not prefix or any(part in ("", ".", "..") for part in prefix.split("/")):
            raise InvalidInput(f"{url} names no place in a bucket; s3://bucket/name was wanted.")
        self.url = f"s3://{bucket}/{prefix}"
        self._bucket, self._prefix = bucket, prefix
        self._creates_once = False

    def below(self, name: str) -> Storage:
        return ObjectStorage(f"{self.url}/{name}")

    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except StoreError as error:
            if error.kind == "missing-file":
                return False
            raise
        return True

    def is_occupied(self) -> bool:
        """Return whether anything is there, but for what a build that stopped before its manifest may have left."""
        found = self._request("", "list", "", _ENOUGH_NAMES)
        left = [name for name, _ in found if name not in _BEFORE_MANIFEST and name.split("/")[0] != ATTEMPTS]
        return bool(left) or len(found) >= _ENOUGH_NAMES

    def names(self, prefix: str = "") -> list[str]:
        return sorted(name for name, _ in self._request(prefix, "list", prefix, None))

    def reader(self, name: str) -> RangeReader:
        return _ObjectReader(self, name)

    def open(self, name: str) -> BinaryIO:
        return io.BufferedReader(RangeStream(self.reader(name)), _BUFFER_BYTES)

    def read(self, name: str) -> bytes:
        size, content = self._request(name, "read", name, _READ_BYTES)
        return b"".join(piece for _, piece in self._pieces(name, size)) if content is None else bytes(content)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Return some bytes of an object that has at least so many."""
        return bytes(self._request(name, "read_range", name, start, length))

    def size(self, name: str) -> int:
        """Return an object's size."""
        return int(self._request(name, "size", name))

    def _pieces(self, name: str, size: int) -> Iterable[tuple[int, bytes]]:
        for start in range(0, size, _READ_BYTES):
            yield start, self.read_range(name, start, min(_READ_BYTES, size - start))

    def scratch(self) -> Path:
        return Path(tempfile.gettempdir()) / f"logitstore-{uuid.uuid4().hex}"

    def create_from(self, name: str, attempt: Path) -> bool:
        with disk_errors(attempt), attempt.open("rb") as file:
            attempt.unlink()
            if os.fstat(file.fileno()).st_size == 0:
                return self.create(name, b"")  # nothing cannot be mapped
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return self.create(name, content)

    def create(self, name: str, content: bytes | mmap.mmap) -> bool:
        self.check_writable()
        return self._create(name, content)

    def _create(self, name: str, content: bytes | mmap.mmap) -> bool:
        may_be_ours = False

        def attempt(seconds: float) -> bool:
            nonlocal may_be_ours
            try:
                self._once(seconds, "create", name, content)
            except RequestFailed as failure:
                if failure.reason != "conflict":
                    may_be_ours = may_be_ours or failure.reason == "transient"
                    raise
                return self._after_conflict(seconds, name, content if may_be_ours else None, failure)
            return True

        return self._repeated(name, attempt, len(content))

    def _after_conflict(
        self, seconds: float, name: str, ours: bytes | mmap.mmap | None, failure: RequestFailed
    ) -> bool:
        """Tell whether what is there counts as created by us; `ours` is None where our PUT cannot have been it."""
        try:
            size = self._once(seconds, "size", name)
        except RequestFailed as found:
            if found.reason == "missing":
                # two uploads were in each other's way, and neither stayed
                raise RequestFailed("transient", failure.text) from None
            raise
        if ours is None or size != len(ours):
            return False
        return all(piece == ours[start : start + len(piece)] for start, piece in self._pieces(name, size))

    def check_writable(self) -> None:
        """Refuse, once, a place that cannot be written to, or that lets an object be created twice."""
        if self._creates_once:
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
        self._creates_once = True

    def remove(self, names: Iterable[str]) -> None:
        if named := list(names):
            try:
                self._request(named[0], "remove", named)
            except StoreError as error:
                if error.kind != "missing-file":
                    raise

    def free_bytes(self) -> int | None:
        return None

    def total_bytes(self) -> int:
        return sum(size for _, size in self._request("", "list", "", None))

    def _request(self, name: str, operation: str, *arguments: Any) -> Any:
        """Make a request that means the same however often it is made; `name` is for people."""
        size = arguments[2] if operation == "read_range" else 0
        return self._repeated(name, lambda seconds: self._once(seconds, operation, *arguments), size)

    def _once(self, seconds: float, operation: str, *arguments: Any) -> Any:
        request = (self._bucket, self._prefix, seconds, operation, *arguments)
        if _Forked.other is None:
            return object_requests.perform(*request)
        return _Forked.other.perform(*request)

    def _repeated(self, name: str, attempt: Callable[[float], T], num_bytes: int) -> T:
        """Return what `attempt` does, given the longest time for one request; repeat it while that may help."""
        seconds = REQUEST_SECONDS
        while seconds * _BYTES_PER_SECOND < num_bytes:
            seconds *= 2
        patience = {"transient": RETRY_SECONDS + seconds - REQUEST_SECONDS, "no-credentials": _CREDENTIALS_SECONDS}
        begin, pause = time.monotonic(), _PAUSE_SECONDS
        while True:
            try:
                return attempt(seconds)
            except RequestFailed as failure:
                waited = time.monotonic() - begin
                left = patience.get(failure.reason, 0) - waited
                if left <= 0:
                    raise self._error(name, failure, waited) from None
            time.sleep(min(left, pause * _RANDOM.uniform(0.5, 1)))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _error(self, name: str, failure: RequestFailed, waited: float) -> StoreError:
        where, kind = self.where(name), _KINDS[failure.reason]
        texts = {
            "missing": f"{where} is missing.",
            "no-bucket": f"there is no bucket {self._bucket}; make it first.",
            "short": f"{where} is cut short: {failure.text}.",
            "no-extra": f"{self.url} needs obstore: pip install 'logitstore[s3]'.",
            "transient": f"{where} cannot be reached, tried for {waited:.0f} s: {failure.text}. Nothing committed is "
            "lost; try again later, then resume.",
        }
        default = (
            f"{where} cannot be used: {failure.text}. Look at the AWS_ environment variables and the bucket's rights."
        )
        return StoreError(texts.get(failure.reason, default), kind=kind)

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
