"""Single requests to a bucket, through obstore, each tried once; and the program that makes them for a forked process.

obstore runs its requests on threads of its own, and a fork takes none of them along: in a child that was forked after
obstore was loaded, every request would wait for ever. Such a child (a worker of a DataLoader, for one) starts this
file as a program, by its path, and that makes the requests. So nothing of logitstore may be imported here.
"""

from __future__ import annotations

import mmap
import os
import pickle
import re
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from functools import lru_cache
from typing import Any, BinaryIO

_LENGTH = struct.Struct("<Q")
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_CAUSE = re.compile(r'message: "([^"]{1,80})"|\b(TimedOut|IncompleteMessage|dns error)\b')
#: answers that another try may change: a request too slow, too many requests, a server that is not up to it just now
_TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)
_TRANSIENT_CODES = ("RequestTimeout", "SlowDown", "InternalError")
#: longest wait for a connection
_CONNECT_SECONDS = 10


class RequestFailed(Exception):  # noqa: N818 - it is turned into a StoreError
    """A request that was not answered as wanted.

    Attributes:
        reason: "missing", "no-bucket", "conflict", "forbidden", "no-credentials", "refused", "short", "no-extra" or
            "transient".
        text: what was said, in a few words that hold neither addresses nor keys.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason, text)
        self.reason, self.text = reason, text


def perform(bucket: str, prefix: str, seconds: float, operation: str, *arguments: Any) -> Any:
    """Make one request, once, in this process.

    Args:
        bucket: its name.
        prefix: what all names lie below.
        seconds: longest time until the answer is there whole.
        operation: "size", "read", "read_range", "create", "remove" or "list".
        arguments: of that operation.

    Raises:
        RequestFailed: whatever came instead of the answer.
    """
    try:
        settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
        return _OPERATIONS[operation](_handle(bucket, prefix, seconds, settings), *arguments)
    except RequestFailed:
        raise
    except Exception as error:
        failure = failure_of(error)
        if failure.reason == "conflict" and operation != "create":
            # no other request has a condition
            failure = RequestFailed("transient", failure.text)
        raise failure from None


def failure_of(error: Exception) -> RequestFailed:
    """Say in our words what obstore raised; its own text names addresses, and may hold what a server sent back."""
    if isinstance(error, ImportError):
        return RequestFailed("no-extra", "obstore is not installed")
    kind, text = type(error).__name__, str(error)
    found_status, found_code = _STATUS.search(text), _CODE.search(text)
    status, code = int(found_status[1]) if found_status else 0, found_code[1] if found_code else ""
    said = f"the server answers {status} {code}".rstrip()
    if code == "NoSuchBucket":
        return RequestFailed("no-bucket", said)
    if status == 404 or isinstance(error, FileNotFoundError):
        return RequestFailed("missing", said)
    if status in (409, 412) or kind in ("AlreadyExistsError", "PreconditionError"):
        return RequestFailed("conflict", said)
    if status in _TRANSIENT_STATUS or code in _TRANSIENT_CODES:
        return RequestFailed("transient", said)
    if status in (401, 403) or kind in ("PermissionDeniedError", "UnauthenticatedError"):
        return RequestFailed("forbidden", said)
    if status:
        return RequestFailed("short" if status == 416 else "refused", said)
    if "redirect" in text and "region" in text:
        return RequestFailed("refused", "the bucket is in another region, which AWS_REGION should name")
    if re.search(r"Missing ?(AccessKeyId|SecretAccessKey)|169\.254\.|[Cc]redential|security-credentials", text):
        return RequestFailed(
            "no-credentials", "no credentials were found; set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
        )
    if isinstance(error, ValueError | TypeError) or kind in ("UnknownConfigurationKeyError", "InvalidPathError"):
        return RequestFailed("refused", f"obstore does not take the name or the AWS_ settings ({kind})")
    cause = _CAUSE.search(text)
    return RequestFailed("transient", f"no answer came ({(cause[1] or cause[2]) if cause else kind})")


@lru_cache(maxsize=64)
def _handle(bucket: str, prefix: str, seconds: float, settings: tuple[tuple[str, str], ...]) -> Any:
    """Return obstore's object for a place, which takes keys and region from the environment by itself."""
    from datetime import timedelta

    from obstore.store import S3Store

    known = dict(settings)
    endpoint = known.get("AWS_ENDPOINT_URL_S3") or known.get("AWS_ENDPOINT_URL")
    if endpoint and not re.match(r"https?://[^/]", endpoint):
        raise RequestFailed("refused", "AWS_ENDPOINT_URL is no http:// or https:// address")
    options: dict[str, Any] = {"endpoint": endpoint.rstrip("/")} if endpoint else {}
    client: Any = {
        "timeout": timedelta(seconds=seconds),
        "connect_timeout": timedelta(seconds=min(seconds, _CONNECT_SECONDS)),
        "allow_http": bool(endpoint and endpoint.startswith("http://")),
    }
    # whether a request may be repeated is for the caller to say, which knows what it means
    retry: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=seconds)}
    return S3Store(bucket, prefix=prefix, conditional_put="etag", client_options=client, retry_config=retry, **options)


def _size(store: Any, name: str) -> int:
    import obstore

    return int(obstore.head(store, name)["size"])


def _read(store: Any, name: str, most: int) -> tuple[int, bytes | None]:
    """Return an object's size; and its bytes, where they are no more than `most`."""
    import obstore

    answer = obstore.get(store, name)
    size = int(answer.meta["size"])
    return size, bytes(answer.bytes()) if size <= most else None


def _read_range(store: Any, name: str, start: int, length: int) -> bytes:
    import obstore

    found = bytes(obstore.get_range(store, name, start=start, length=length))
    if len(found) != length:
        raise RequestFailed("short", f"the server sends {len(found)} bytes of {length}")
    return found


def _create(store: Any, name: str, content: bytes | mmap.mmap) -> None:
    import obstore

    # one request, so that the condition holds for all of it; a view, as a map could be taken for a file that is read
    with memoryview(content) as view:
        obstore.put(store, name, view, mode="create", use_multipart=False)


def _remove(store: Any, names: list[str]) -> None:
    import obstore

    obstore.delete(store, names)


def _list(store: Any, prefix: str, most: int | None) -> list[tuple[str, int]]:
    """Return names below `prefix`, and sizes; about `most` of them, where that is given."""
    import obstore

    found: list[tuple[str, int]] = []
    for batch in obstore.list(store, prefix or None):
        found += [(str(item["path"]), int(item["size"])) for item in batch]
        if most is not None and len(found) >= most:
            break
    return found


_OPERATIONS: dict[str, Any] = {
    "size": _size,
    "read": _read,
    "read_range": _read_range,
    "create": _create,
    "remove": _remove,
    "list": _list,
}


class OtherProcess:
    """Makes requests in a process of its own, one at a time; the process ends with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def perform(self, *request: Any) -> Any:
        """Do as `perform` does."""
        with self._lock:
            try:
                process = self._process = self._process or self._start()
                assert process.stdin is not None
                assert process.stdout is not None
                _send(process.stdin, [bytes(part) if isinstance(part, mmap.mmap) else part for part in request])
                succeeded, found = _receive(process.stdout)
            except (OSError, EOFError):
                self._stop()
                raise RequestFailed("transient", "the process that makes the requests ended") from None
            except BaseException:
                # an answer that is still to come would be taken for that of the next request
                self._stop()
                raise
        if not succeeded:
            raise RequestFailed(*found)
        return found

    @staticmethod
    def _start() -> subprocess.Popen[bytes]:
        # -P: modules that lie beside this file are not to be found by their bare names; a session of its own: an
        # interrupt from the terminal is for the process that asks
        return subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,
        )

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with suppress(OSError):
                    assert stream is not None
                    stream.close()


def _send(stream: BinaryIO | Any, message: Any) -> None:
    content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(_LENGTH.pack(len(content)))
    stream.write(content)
    stream.flush()


def _receive(stream: BinaryIO | Any) -> Any:
    header = stream.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    content = stream.read(_LENGTH.unpack(header)[0])
    return pickle.loads(content)


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    with suppress(EOFError, BrokenPipeError):
        while True:
            request = _receive(requests)
            try:
                answer = True, perform(*request)
            except RequestFailed as failure:
                # not the object: its class has another name in this program
                answer = False, (failure.reason, failure.text)
            _send(answers, answer)


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
