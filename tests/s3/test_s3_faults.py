"""Whatever a server or the way to it does: no object is ever seen half-written, and a build ends in the same bytes or
with a clear error, after which it can be resumed.

LOGITSTORE_TORTURE=1 asks for the full size: 200 requests of each fault.
"""

import hashlib
import itertools
import os
import random
import threading
import time
from contextlib import contextmanager

import pytest

from logitstore.errors import StoreError
from logitstore.store import object_storage, open_store, verify_store
from logitstore.store.object_storage import ObjectStorage
from tests.s3 import fault_proxy
from tests.s3.conftest import BUCKET
from tests.support.small_builds import build, fingerprint
from tests.support.toy_teachers import toy_teacher
from tests.torture.record import record, size

NUM_FAULTS = size(full=200, small=12)
NUM_KILLS = size(full=30, small=2)
#: methods of requests that a fault can befall in reality; the others pass
METHODS = {"409": ("PUT",), "412": ("PUT",), "torn": ("GET",), "lost": ("PUT", "GET", "HEAD", "POST")}
ANY = ("PUT", "GET", "HEAD", "POST")


@pytest.fixture(scope="module")
def wanted(undisturbed):
    return fingerprint(undisturbed)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(object_storage, "_PAUSE_SECONDS", 0.02)


@contextmanager
def watched(bucket, place):
    """Look at all objects of a place, past any proxy, again and again; in the end each must have been seen with one
    content only, and that is the one it has."""
    seen, stop = {}, threading.Event()

    def look():
        names = bucket.names(place)
        for name in names:
            if not name.startswith("attempts/"):
                content = bucket.read(place, name)
                seen.setdefault(name, set()).add(hashlib.sha256(content).hexdigest())

    def watch():
        while not stop.wait(0.01):
            try:
                look()
            except Exception:  # removed in between, or the server is down
                continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    look()
    assert seen
    assert {name: contents for name, contents in seen.items() if len(contents) != 1} == {}


def every_third(fault, most):
    """Choose every third request that `fault` can befall, `most` of them."""
    eligible, left = 0, most

    def choose(method, path, number):
        nonlocal eligible, left
        if method not in METHODS.get(fault, ANY):
            return None
        eligible += 1
        if eligible % 3 or not left:
            return None
        left -= 1
        return fault

    return choose


@pytest.mark.parametrize("fault", ["409", "412", "500", "503", "reset", "lost", "torn", "slow"])
def test_a_build_goes_on_through_faults_to_the_same_bytes(place, proxy, bucket, data, wanted, fault):
    turn = 0
    while proxy.counts.get(fault, 0) < NUM_FAULTS:
        here = f"{place}/{turn}"
        proxy.choose = every_third(fault, NUM_FAULTS - proxy.counts.get(fault, 0))
        with watched(bucket, here):
            build(here, data)
        assert fingerprint(here) == wanted
        assert verify_store(here) == []
        turn += 1
        assert turn < NUM_FAULTS, "the fault never came"
    record(f"S3: {fault}, at every third request", NUM_FAULTS, f"{turn} builds, all with the same bytes")


def refusal(place, data):
    """Build; return the error of it, None where there is none."""
    try:
        build(place, data)
    except StoreError as error:
        return error
    return None


@pytest.mark.parametrize("fault", ["503", "reset", "lost"])
def test_an_outage_is_told_and_the_build_can_be_resumed(place, proxy, bucket, data, wanted, fault, monkeypatch):
    told = 0
    for begin in size(full=itertools.count(1), small=range(5, 130, 70)):
        here = f"{place}/{begin}"
        before = proxy.number
        proxy.choose = lambda method, path, number, last=before + begin: fault if number > last else None
        with watched(bucket, here), monkeypatch.context() as patched:
            patched.setattr(object_storage, "RETRY_SECONDS", 0.1)
            error = refusal(here, data)
            if error is None:
                break  # it was done before
            assert "Nothing committed is lost" in str(error)
            assert error.kind == "unreachable"
            told += 1
            proxy.choose = lambda method, path, number: None
            if "sealed.json" not in bucket.names(here):
                with pytest.raises(StoreError, match=r"unfinished|no store"):
                    open_store(here)
            build(here, data)
        assert fingerprint(here) == wanted
    assert told >= size(full=100, small=2)
    record(f"S3: {fault} at every request from the N-th on", f"all {told}", "all told, all resumed to the same bytes")


def test_an_answer_later_than_the_time_limit_is_asked_for_again(place, proxy, bucket, data, wanted, monkeypatch):
    monkeypatch.setattr(object_storage, "REQUEST_SECONDS", fault_proxy.SLOW_SECONDS * 0.7)
    proxy.choose = every_third("slow", NUM_FAULTS)
    with watched(bucket, place):
        build(place, data)
    assert proxy.counts["slow"] > 10
    assert fingerprint(place) == wanted


@pytest.mark.parametrize("fault", ["lost", "reset", "412", "409", "500"])
def test_one_put_that_went_wrong_counts_as_made_and_only_ours(place, proxy, fault):
    storage = ObjectStorage(place)
    storage.check_writable()
    for turn in range(NUM_FAULTS):
        name, puts = f"object-{turn}", []

        def choose(method, path, number, name=name, puts=puts):
            if method == "PUT" and path.endswith(name):
                puts.append(number)
            return fault if puts == [number] else None

        proxy.choose = choose
        content = os.urandom(1000)
        assert storage.create(name, content)
        assert len(puts) == 2
        proxy.choose = lambda method, path, number: None
        assert storage.read(name) == content
        # an answer is lost where somebody else was quicker: not ours
        puts.clear()
        proxy.choose = choose
        assert not storage.create(name, os.urandom(1000))
        assert not storage.create(name, content + b"more")
        assert storage.read(name) == content


def test_an_endpoint_that_ignores_the_condition_is_refused_before_any_work(place, proxy, bucket, data):
    def erase(path):
        bucket.client.delete_object(Bucket=BUCKET, Key=path.removeprefix(f"/{BUCKET}/"))

    def never(logits):
        pytest.fail("the teacher ran")

    proxy.erase = erase
    proxy.choose = lambda method, path, number: "overwrite" if method == "PUT" else None
    with pytest.raises(StoreError, match="ignores If-None-Match") as caught:
        build(place, data, teacher=toy_teacher(never))
    assert caught.value.kind == "no-create-once"
    assert bucket.names(place) == []
    with pytest.raises(StoreError):
        ObjectStorage(place).create("x", b"1")
    assert bucket.names(place) == []


@pytest.fixture
def mortal(s3_server):
    if not s3_server.keeps_objects:
        pytest.skip("moto's objects would be lost with it")
    return s3_server


@contextmanager
def killed_and_revived(server, *, after, for_seconds):
    """Kill the server some time from now, and start it again."""

    def kill():
        time.sleep(after)
        server.kill()
        time.sleep(for_seconds)
        server.revive()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_a_build_outlives_a_killed_server(mortal, place, bucket, data, wanted):
    draw = random.Random(0)
    for turn in range(NUM_KILLS):
        here = f"{place}/{turn}"
        slowly = toy_teacher(lambda logits: (time.sleep(0.05), logits)[1])
        with watched(bucket, here), killed_and_revived(mortal, after=draw.uniform(0, 0.8), for_seconds=0.3):
            build(here, data, teacher=slowly)
        assert fingerprint(here) == wanted
    record("S3: kill -9 of the server under a build", NUM_KILLS, "all went on to the same bytes")


def test_a_build_that_gave_up_on_a_killed_server_is_resumed(mortal, place, bucket, data, wanted, monkeypatch):
    draw, stopped = random.Random(1), 0
    for turn in range(NUM_KILLS):
        here = f"{place}/{turn}"
        slowly = toy_teacher(lambda logits: (time.sleep(0.05), logits)[1])
        with watched(bucket, here):
            with monkeypatch.context() as patched:
                patched.setattr(object_storage, "RETRY_SECONDS", 0.1)
                with killed_and_revived(mortal, after=draw.uniform(0, 0.6), for_seconds=0.5):
                    stopped += gave_up(here, data, slowly)
            build(here, data)
        assert fingerprint(here) == wanted
    assert stopped > 0
    record("S3: kill -9 of the server, short patience", NUM_KILLS, f"{stopped} clear errors, all resumed")


def gave_up(place, data, teacher):
    """Build; return whether the server could not be reached."""
    try:
        build(place, data, teacher=teacher)
    except StoreError as error:
        if error.kind != "unreachable":
            raise
        return True
    return False


def test_of_large_objects_none_is_half_there_after_a_kill(mortal, place, bucket):
    """Six megabytes are two objects of the server's own."""
    for turn in range(NUM_KILLS):
        storage = ObjectStorage(f"{place}/{turn}")
        contents = {f"object-{nth}": random.Random(nth).randbytes(6_000_000) for nth in range(12)}
        told = {}

        def create(names, storage=storage, contents=contents, told=told):
            for name in names:
                told[name] = storage.create(name, contents[name])

        threads = [threading.Thread(target=create, args=([*contents][part::3],)) for part in range(3)]
        with watched(bucket, storage.url), killed_and_revived(mortal, after=0.15, for_seconds=0.2):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert told == dict.fromkeys(contents, True)
        assert bucket.contents(storage.url) == contents
        storage.remove(contents)
    record("S3: kill -9 of the server under PUTs of 6 MB", NUM_KILLS * 12, "none half there, all made in the end")
