"""A small disk that is full sooner or later."""

import os
import random
import subprocess

import pytest

from logitstore.errors import StoreError
from tests.support.small_builds import build, fingerprint, write_data
from tests.support.small_disks import small_disk
from tests.torture.builders import check_visible, leftovers
from tests.torture.record import record, size


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", "2m") as folder:
        yield folder


def test_a_build_on_a_disk_that_fills_up_is_told_so_and_resumes(tmp_path, disk, monkeypatch):
    # the projection would refuse most of these disks before anything is built
    monkeypatch.setattr("logitstore.build.pilot._OVERHEAD_BYTES", -(1 << 30))
    data = write_data(tmp_path)
    build(tmp_path / "whole", data)
    wanted = fingerprint(tmp_path / "whole")
    needed = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    rng, full, trials = random.Random(5), 0, size(full=20, small=4)
    for trial in range(trials):
        store = disk / f"s{trial}"
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        ballast = disk / "ballast"
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
