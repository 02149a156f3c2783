"""A small disk that is full sooner or later."""

import os
import random
import subprocess

import pytest

from logitstore.errors import StoreError
from tests.torture.builders import build, check_visible, fingerprint, leftovers, write_data
from tests.torture.record import record, size


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_build_on_a_disk_that_fills_up_is_told_so_and_resumes(tmp_path, small_disk, monkeypatch):
    # the projection would refuse most of these disks before anything is built
    monkeypatch.setattr("logitstore.build.pilot._OVERHEAD_BYTES", -(1 << 30))
    data = write_data(tmp_path)
    build(tmp_path / "whole", data)
    wanted = fingerprint(tmp_path / "whole")
    needed = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    rng, full, trials = random.Random(5), 0, size(full=20, small=4)
    for trial in range(trials):
        store = small_disk / f"s{trial}"
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        ballast = small_disk / "ballast"
        ballast.write_bytes(os.urandom(free - rng.randrange(4096, 2 * needed)))
        try:
            build(store, data)
        except StoreError as error:
            full += 1
            if error.kind != "disk-full":
                raise
            check_visible(store)
        ballast.unlink()
        build(store, data)
        assert fingerprint(store) == wanted
        assert leftovers(store) == []
        subprocess.run(["rm", "-r", str(store)], check=True)
    assert full >= trials / 2
    record("a full disk, at random levels", trials, f"{full} times full and told so; resumed to the same bytes")
