"""Single objects: made once, read whole or in parts, listed over many pages, from forked processes too; and the errors."""

import multiprocessing
import os
import pickle
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from logitstore.errors import InvalidInput, StoreError
from logitstore.store import object_requests, object_storage
from logitstore.store.object_storage import ObjectStorage
from logitstore.store.storage import open_storage
from tests.torture.record import record, size


@pytest.fixture
def storage(place):
    return ObjectStorage(place)


@pytest.fixture
def hasty(monkeypatch):
    """Give up soon."""
    monkeypatch.setattr(object_storage, "RETRY_SECONDS", 0.5)


def test_an_object_is_created_once_and_stays(storage, bucket, place):
    assert storage.create("folder/name", b"first")
    assert not storage.create("folder/name", b"second")
    assert not storage.create("folder/name", b"first")
    assert storage.read("folder/name") == bucket.read(place, "folder/name") == b"first"
    assert storage.names() == ["folder/name"]


def test_a_file_becomes_an_object_and_goes_away(storage, tmp_path, monkeypatch):
    monkeypatch.setattr(object_storage, "_READ_BYTES", 1 << 20)
    content = os.urandom(5_000_000)
    for name, part in [("large", content), ("empty", b"")]:
        attempt = storage.scratch()
        attempt.write_bytes(part)
        assert storage.create_from(name, attempt)
        assert not attempt.exists()
        assert storage.read(name) == part
        assert storage.size(name) == len(part)
    assert storage.total_bytes() == len(content)
    assert storage.reader("large").read(4_999_990, 100) == content[-10:]
    assert storage.reader("large").read(5_000_000, 100) == b""


def test_pyarrow_reads_an_object_as_a_stream(storage):
    table = pa.table({"a": list(range(200_000))})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=50_000, compression="none")
    storage.create("table", sink.getvalue().to_pybytes())
    with storage.open("table") as stream, pq.ParquetFile(stream) as file:
        assert file.read_row_group(2).equals(table.slice(100_000, 50_000))
        assert file.read().equals(table)


def test_pyarrow_hands_on_the_error_of_an_object_that_vanishes(storage, hasty):
    storage.create("table", b"x" * 100_000)
    with storage.open("table") as stream:
        storage.remove(["table"])
        with pytest.raises(StoreError) as caught:
            pq.ParquetFile(stream)
    assert caught.value.kind == "missing-file"


def test_listings_go_over_many_pages(storage, bucket, place):
    names = sorted(f"commits/{number:05d}" for number in range(1100))
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: bucket.write(place, name, b"1"), [*names, "commits-of-others", "z"]))
    assert storage.names() == [*sorted([*names, "commits-of-others"]), "z"]
    assert storage.names("commits") == names
    assert storage.is_occupied()
    assert storage.total_bytes() == 1102
    storage.remove_below(["commits", "absent"])
    assert storage.names() == ["commits-of-others", "z"]
    storage.remove(["z", "absent"])
    assert storage.names() == ["commits-of-others"]


def test_names_with_signs_and_spaces_are_kept_apart(place):
    first, second = ObjectStorage(f"{place}/a b%20+ü"), ObjectStorage(f"{place}/a b%20+ü2")
    first.create("x", b"1")
    second.create("y", b"2")
    assert (first.names(), second.names()) == (["x"], ["y"])
    assert first.read("x") == b"1"


@pytest.mark.parametrize("name", ["plan.parquet", "pilot.parquet", "frequencies.bin", "attempts/x"])
def test_what_a_build_leaves_before_its_manifest_takes_no_place(storage, bucket, place, name):
    assert not storage.is_occupied()
    bucket.write(place, name, b"1")
    assert not storage.is_occupied()
    bucket.write(place, "other", b"1")
    assert storage.is_occupied()


def race(place, contents):
    """Let threads create one object at the same time; return what each was told."""
    storages = [ObjectStorage(place) for _ in contents]
    for storage in storages:
        storage._creates_once = True  # no probing before the race
    barrier = threading.Barrier(len(contents))

    def create(storage, content):
        barrier.wait()
        return storage.create("object", content)

    with ThreadPoolExecutor(len(contents)) as pool:
        return list(pool.map(create, storages, contents))


@pytest.mark.parametrize("same", [True, False])
def test_of_eight_racing_creators_one_wins(s3_server, place, same):
    if not s3_server.keeps_objects:
        pytest.skip("moto looks and writes in two steps, so that two creators may win there")
    rounds = size(full=200, small=15)
    for turn in range(rounds):
        contents = [os.urandom(20_000)] * 8 if same else [os.urandom(20_000) for _ in range(8)]
        told = race(f"{place}/{turn}", contents)
        assert sum(told) == 1
        assert ObjectStorage(f"{place}/{turn}").read("object") == contents[told.index(True)]
    which = "equal" if same else "different"
    record(f"S3: eight create one object, {which} contents", rounds, "one winner each, whose content stays")


def read_there(storage, name, connection):
    connection.send(storage.read(name))
    connection.send(storage.create("from-there", b"there"))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_reads_and_writes(storage, method):
    storage.create("x", b"here")
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=read_there, args=(storage, "x", theirs), daemon=True)
    process.start()
    assert ours.poll(30)
    assert ours.recv() == b"here"
    assert ours.poll(30)
    assert ours.recv() is True
    process.join()
    assert storage.read("from-there") == b"there"


def in_a_fork(function):
    """Return what a function does in a forked child."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=lambda: theirs.send(function()), daemon=True)
    process.start()
    assert ours.poll(60)
    process.join()
    return ours.recv()


def test_a_forked_process_gets_large_objects_and_errors_across(storage, tmp_path):
    content = os.urandom(3_000_000)
    storage.create("x", content)

    def there():
        attempt = storage.scratch()
        attempt.write_bytes(content)
        made = storage.create_from("y", attempt), storage.create("x", b"other")
        with pytest.raises(StoreError) as caught:
            storage.read("absent")
        return made, storage.read("x") == content, caught.value.kind

    assert in_a_fork(there) == ((True, False), True, "missing-file")
    assert storage.read("y") == content


def test_a_forked_process_survives_the_end_of_its_requesting_process(storage):
    storage.create("x", b"1")

    def there():
        first = storage.read("x")
        other = object_storage._Forked.other
        other._process.kill()
        other._process.wait()
        return first, storage.read("x")

    assert in_a_fork(there) == (b"1", b"1")


def test_an_interrupt_leaves_no_answer_for_the_next_request(storage):
    storage.create("x", b"1")
    storage.create("y", b"2")

    def there():
        other = object_storage._Forked.other
        storage.read("x")
        receive = object_requests._receive

        def interrupted(stream):
            raise KeyboardInterrupt

        object_requests._receive = interrupted
        with pytest.raises(KeyboardInterrupt):
            storage.read("x")
        object_requests._receive = receive
        return storage.read("y"), other._process.poll()

    assert in_a_fork(there) == (b"2", None)


def test_a_storage_can_be_pickled_and_says_where_it_is(storage, place):
    again = pickle.loads(pickle.dumps(storage))
    assert (again.url, again.where("x")) == (place, f"{place}/x")
    assert open_storage(f"{place}/").url == place


@pytest.mark.parametrize(
    "url", ["s3://", "s3://bucket", "s3://bucket/", "s3://key:word@bucket/x", "s3://bucket/a/../b"]
)
def test_addresses_that_name_no_place_are_refused(url):
    with pytest.raises(InvalidInput) as caught:
        open_storage(url)
    assert "word" not in str(caught.value)


def error_of(function, *arguments):
    with pytest.raises(StoreError) as caught:
        function(*arguments)
    assert "test-secret" not in str(caught.value)
    return caught.value


def test_errors_name_what_is_wrong(storage, place, hasty, monkeypatch):
    storage.create("x", b"0123456789")
    error = error_of(storage.read, "absent")
    assert (error.kind, str(error)) == ("missing-file", f"{place}/absent is missing.")
    assert error_of(storage.read_range, "x", 5, 10).kind == "truncated"
    assert error_of(storage.read_range, "x", 50, 10).kind == "truncated"
    elsewhere = ObjectStorage("s3://no-such-bucket-here/x")
    assert error_of(elsewhere.create, "x", b"").kind == "missing-bucket"
    assert error_of(elsewhere.names).kind == "missing-bucket"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:test-secret@127.0.0.1:9")
    error = error_of(storage.read, "x")
    assert error.kind == "unreachable"
    assert "Connection refused" in str(error)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9")
    assert "AWS_ENDPOINT_URL" in str(error_of(storage.read, "x"))


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_keys_are_forbidden_at_once_and_not_repeated(s3_server, storage, monkeypatch, name):
    if not s3_server.keeps_objects:
        pytest.skip("moto looks at no keys")
    monkeypatch.setenv(name, "wrong-key")
    for operation in (storage.names, lambda: storage.read("x"), lambda: storage.create("x", b"1")):
        begin = time.monotonic()
        error = error_of(operation)
        assert error.kind == "forbidden"
        assert "403" in str(error)
        assert "wrong-key" not in str(error)
        assert time.monotonic() - begin < 2


def test_missing_keys_are_named(storage, monkeypatch):
    monkeypatch.setattr(object_storage, "_CREDENTIALS_SECONDS", 0.2)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    error = error_of(storage.read, "x")
    assert error.kind == "forbidden"
    assert "set AWS_ACCESS_KEY_ID" in str(error)


def test_the_endpoint_of_s3_goes_before_the_general_one(s3_server, storage, monkeypatch):
    storage.create("x", b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
    assert storage.read("x") == b"1"


def test_without_obstore_the_extra_is_named(storage, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    error = error_of(storage.read, "x")
    assert error.kind == "extra-missing"
    assert "logitstore[s3]" in str(error)
