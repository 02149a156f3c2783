"""A real S3 server for tests: Ceph's gateway in front of one monitor and one OSD that keeps all in memory, on loopback."""

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "ceph-common")
KEY, SECRET = "test-key", "test-secret"
_READY_SECONDS = 60
#: runs a command until its own input ends, which it does with the tests, however they end; then kills it by SIGKILL
_UNTIL_EOF = '"$@" & read -r _; kill -9 $!; wait $!'
_CONFIG = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}]
mon initial members = a
mon data = {folder}/mon
mon data avail crit = 1
mon data avail warn = 2
mon allow pool size one = true
auth cluster required = none
auth service required = none
auth client required = none
public network = 127.0.0.0/8
ms bind ipv6 = false
run dir = {folder}
crash dir = {folder}
admin socket =
log file = {folder}/$name.log
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
[client.rgw]
auth client required = none
ms mon client mode = crc
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw rados pool pg num min = 1
rgw data = {folder}/rgw
"""


def is_installed():
    return all(shutil.which(program) for program in PROGRAMS)


def try_to_install(seconds=300):
    """Install the Debian packages where that may be done; tell what stood against it, or nothing."""
    if is_installed():
        return None
    if not Path("/etc/debian_version").exists() or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return f"{', '.join(PACKAGES)} are not installed, and this is not root on Debian"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        try:
            options = {"check": True, "env": environment, "timeout": seconds, "stdin": subprocess.DEVNULL}
            subprocess.run(["apt-get", "-qq", *command], capture_output=True, **options)
        except (subprocess.SubprocessError, OSError) as error:
            return f"apt-get {command[0]} failed ({type(error).__name__})"
    return None if is_installed() else "the Debian packages lack some of the programs"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_until_it_answers(url, process, seconds=_READY_SECONDS):
    """Wait until a server answers at all."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server of {url} ended with {process.returncode}")
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            time.sleep(0.05)
            continue
        return
    raise RuntimeError(f"no answer from {url} within {seconds} s")


class CephGateway:
    """`start` takes about ten seconds. `kill` ends the gateway as a crash would, `revive` starts it again: its objects
    lie in the OSD and stay."""

    name = "Ceph RGW"
    key, secret = KEY, SECRET
    keeps_objects = True

    def __init__(self, folder):
        self.folder, self.port = Path(folder), free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._daemons, self._gateway = [], None
        self._environment = os.environ | {"CEPH_CONF": str(self.folder / "ceph.conf")}

    def start(self):
        fsid, osd, mon_port = str(uuid.uuid4()), str(uuid.uuid4()), free_port()
        for name in ("mon", "osd", "rgw"):
            (self.folder / name).mkdir(parents=True)
        config = _CONFIG.format(fsid=fsid, folder=self.folder, mon_port=mon_port, port=self.port)
        (self.folder / "ceph.conf").write_text(config)
        keyring, monmap = str(self.folder / "keyring"), str(self.folder / "monmap")
        self._run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{mon_port}]", monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        self._daemons.append(self._begin("ceph-mon", "-i", "a"))
        self._run("ceph", "--connect-timeout", "30", "osd", "new", osd)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._daemons.append(self._begin("ceph-osd", "-i", "0"))
        self._gateway = self._begin("radosgw", "-n", "client.rgw")
        user = ["user", "create", "--uid", "tests", "--display-name", "tests"]
        self._run("radosgw-admin", "-n", "client.rgw", *user, "--access-key", KEY, "--secret-key", SECRET)
        wait_until_it_answers(self.endpoint, self._gateway)

    def kill(self):
        _kill(self._gateway)

    def revive(self):
        self._gateway = self._begin("radosgw", "-n", "client.rgw")
        wait_until_it_answers(self.endpoint, self._gateway)

    def stop(self):
        for process in [self._gateway, *reversed(self._daemons)]:
            if process is not None:
                _kill(process)

    def _run(self, *command):
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=_READY_SECONDS)
        if done.returncode:
            raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-400:]}")

    def _begin(self, *command):
        return subprocess.Popen(
            ["sh", "-c", _UNTIL_EOF, "sh", *command, "-f"],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def _kill(process):
    process.stdin.close()
    process.wait()
