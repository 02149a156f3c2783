"""A proxy in front of an S3 server that makes things go wrong."""

import contextlib
import http.client
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

#: what may befall a request
STATUS = {"409": "ConditionalRequestConflict", "412": "PreconditionFailed", "500": "InternalError", "503": "SlowDown"}
#: reset: closed before it reaches the server; lost: done by the server, but the answer does not come; torn: half of the
#: answer comes; slow: comes late; overwrite: done as if it had no condition
FAULTS = (*STATUS, "reset", "lost", "torn", "slow", "overwrite")
SLOW_SECONDS = 0.2
_PASSED_ON = ("connection", "keep-alive", "transfer-encoding", "content-length")


class FaultProxy:
    """Passes requests on, but for those that `choose` names a fault for.

    Attributes:
        choose: called with method, path and the number of the request; returns a fault, or None to pass it on.
        erase: removes the object of a path, past the proxy; needed for "overwrite".
        counts: how often each fault was made, by name.
    """

    def __init__(self, upstream):
        self._upstream = urlsplit(upstream)
        self.choose = lambda method, path, number: None
        self.erase = None
        self.counts = {}
        self.number = 0
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def next_fault(self, method, path):
        with self._lock:
            self.number += 1
            fault = self.choose(method, unquote(path), self.number)
            if fault is not None:
                self.counts[fault] = self.counts.get(fault, 0) + 1
            return fault

    def forward(self, method, path, headers, body):
        """Return status, headers and body of the server's answer."""
        connection = http.client.HTTPConnection(self._upstream.hostname, self._upstream.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.proxy.next_fault(self.command, self.path)
        if fault in STATUS:
            text = f"<Error><Code>{STATUS[fault]}</Code></Error>".encode()
            self._answer(int(fault), [("Content-Type", "application/xml")], b"" if self.command == "HEAD" else text)
        elif fault == "reset":
            self._reset()
        else:
            if fault == "slow":
                time.sleep(SLOW_SECONDS)
            if fault == "overwrite":
                self.proxy.erase(unquote(urlsplit(self.path).path))
            try:
                answer = self.proxy.forward(self.command, self.path, self.headers, body)
            except OSError:  # the server is gone
                return self._reset()
            if fault == "lost":
                self._reset()
            else:
                self._answer(*answer, torn=fault == "torn")
        return None

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815

    def _answer(self, status, headers, body, torn=False):
        length = {name.lower(): value for name, value in headers}.get("content-length", "0")
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _PASSED_ON:
                self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body[: len(body) // 2] if torn else body)
        if torn:
            self._reset()

    def _reset(self):
        # with nothing to linger for, closing sends a reset
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def finish(self):
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *arguments):
        pass
