"""File operations that fail, one after the other; bits that flip; files that are cut."""

import errno
import os
import random
import sys
from contextlib import contextmanager

import pytest

from logitstore.errors import LogitstoreError, StoreError
from logitstore.samplers import Threshold
from logitstore.store import open_store, verify_store
from tests.support.small_builds import build, fingerprint, write_data
from tests.support.stores import make_store
from tests.torture.builders import check_visible, leftovers
from tests.torture.record import record, size

#: what the interpreter tells of before it does it
EVENTS = {
    "open",
    "os.link",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.listdir",
    "os.scandir",
    "os.truncate",
}


class Faults:
    """Counts file operations below a folder, and lets the `fail_at`-th one fail."""

    def __init__(self):
        self.folder, self.fail_at, self.count, self.failed = None, None, 0, ""
        self._fsync = os.fsync
        sys.addaudithook(self._on_event)

    def _on_event(self, event, arguments):
        if self.folder is not None and event in EVENTS and isinstance(arguments[0], str | os.PathLike):
            path = os.fspath(arguments[0])
            if isinstance(path, str) and path.startswith(self.folder):
                self._one_more(f"{event} {path}")

    def _one_more(self, what):
        self.count += 1
        if self.count == self.fail_at:
            self.failed = what
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _failing_fsync(self, descriptor):
        if self.folder is not None:
            self._one_more("fsync")
        self._fsync(descriptor)

    def run(self, folder, fail_at, function, *arguments):
        """Call a function while faults are on; return how many operations there were."""
        self.folder, self.fail_at, self.count, self.failed = str(folder), fail_at, 0, ""
        os.fsync = self._failing_fsync
        try:
            function(*arguments)
        finally:
            self.folder, os.fsync = None, self._fsync
        return self.count


@pytest.fixture(scope="module")
def faults():
    return Faults()


@pytest.fixture
def sequential(monkeypatch):
    """Write beside the teacher without a thread, so that operations come in one order."""
    from logitstore.build import unit

    class InPlace(unit._WriterThread):
        def put(self, sequence, made):
            self._queue.put((sequence, made))
            self._queue.put(None)
            self._run()
            self._raise_error()

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(unit, "_WriterThread", InPlace)


@pytest.mark.usefixtures("sequential")
def test_every_file_operation_may_fail_once(tmp_path, faults):
    data = write_data(tmp_path)
    build(tmp_path / "whole", data)
    wanted = fingerprint(tmp_path / "whole")
    (tmp_path / "f").mkdir()
    total = faults.run(tmp_path / "f", None, build, tmp_path / "f" / "count", data)
    assert total > 100
    errors, survived = 0, 0
    for fail_at in range(1, total + 1, size(full=1, small=1 + total // 12)):
        store = tmp_path / "f" / f"s{fail_at}"
        try:
            faults.run(tmp_path / "f", fail_at, build, store, data)
            survived += 1
        except LogitstoreError as error:
            errors += 1
            if str(store) not in str(error) and f".{store.name}." not in str(error):
                raise
        check_visible(store)
        build(store, data)
        assert fingerprint(store) == wanted, faults.failed
        assert leftovers(store) == []
    assert errors > survived
    record("fail the N-th file operation", f"all {total}", f"{errors} clear errors, {survived} did not matter; resumed")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    # small, so that every region of every file is met often
    path = tmp_path_factory.mktemp("finished") / "s"
    make_store(path, lengths=[9, 30, 2, 17, 9], sampler=Threshold(20), sequences_per_shard=2)
    return path


def is_noticed(store):
    """Return whether verify finds something, or the store is refused."""
    try:
        return bool(verify_store(store))
    except StoreError:
        return True


@contextmanager
def flipped(path, rng):
    """Let one bit of a file be flipped for a while; yields where."""
    content = path.read_bytes()
    damaged, bit = bytearray(content), rng.randrange(8 * len(content))
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    try:
        yield path, bit
    finally:
        path.write_bytes(content)


def contents(sequence):
    return sequence.tokens.tolist(), sequence.targets.ids.tolist(), sequence.targets.weights.tolist()


def read_all(path, stored):
    """Return how many sequences are refused; the others must be as stored."""
    store, refused = open_store(path), 0
    for index, wanted in enumerate(stored):
        try:
            found = contents(store[index])
        except StoreError:
            refused += 1
        else:
            assert found == wanted
    return refused


def files_of(store):
    return [path for path in sorted(store.rglob("*")) if path.is_file()]


def test_no_flipped_bit_is_silent(finished):
    rng, files, trials = random.Random(2), files_of(finished), size(full=20_000, small=100)
    for trial in range(trials):
        with flipped(files[trial % len(files)], rng) as place:
            assert is_noticed(finished), place
    assert verify_store(finished) == []
    record("one flipped bit", trials, f"0 silent, in {len(files)} files")


def test_no_cut_is_silent(finished):
    trials = 0
    for path in files_of(finished):
        content = path.read_bytes()
        for end in range(0, len(content), size(full=64, small=1024)):
            path.write_bytes(content[:end])
            assert is_noticed(finished), (path, end)
            trials += 1
        path.write_bytes(content)
    assert verify_store(finished) == []
    record("truncation at every 64th byte of every file", trials, "0 silent")


def test_reading_never_gives_what_was_not_stored(finished):
    stored = [contents(sequence) for sequence in open_store(finished)]
    rng, trials, refused = random.Random(3), size(full=2000, small=60), 0
    files = [path for path in files_of(finished) if path.parent.name == "c"]
    for trial in range(trials):
        with flipped(files[trial % len(files)], rng):
            refused += read_all(finished, stored)
    assert refused >= trials * 0.9
    record("reading after a flipped bit in a shard", trials, "raised, or gave what was stored")
