"""An S3 server for tests where Ceph cannot be had: moto's, which keeps all in its own memory."""

import subprocess
import sys

from tests.s3.ceph_gateway import KEY, SECRET, free_port, wait_until_it_answers


class MotoGateway:
    """A crash would lose its objects, so it is never killed."""

    name = "moto"
    key, secret = KEY, SECRET
    keeps_objects = False

    def __init__(self):
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process = None

    def start(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until_it_answers(self.endpoint, self._process)

    def stop(self):
        self._process.kill()
        self._process.wait()
