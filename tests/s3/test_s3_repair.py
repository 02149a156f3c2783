"""Repairs of stores in a bucket: what is dropped is made again, to the same objects."""

import pytest

from logitstore.build.append import append_store
from logitstore.cli.main import run as run_command
from logitstore.errors import StoreError
from logitstore.store import open_store, verify_store
from logitstore.store.repair import repair_store
from tests.s3.s3_builds import StopAt
from tests.support.small_builds import build
from tests.support.toy_teachers import toy_teacher
from tests.torture.record import size


def flipped(content):
    return content[:40] + bytes([content[40] ^ 16]) + content[41:]


#: what is done to the objects, and the units that are dropped for it
DAMAGE = {
    "a shard": (lambda b, at: b.write(at, "sequences/c/1", flipped(b.read(at, "sequences/c/1"))), [1]),
    "a lost shard": (lambda b, at: b.delete(at, "sequences/c/4"), [4]),
    "a shard cut short": (lambda b, at: b.write(at, "sequences/c/0", b.read(at, "sequences/c/0")[:60]), [0]),
    "the seal": (lambda b, at: b.delete(at, "sealed.json"), []),
    "the index": (lambda b, at: b.write(at, "index.parquet", flipped(b.read(at, "index.parquet"))), []),
    "zarr.json and a stray": (lambda b, at: (b.delete(at, "zarr.json"), b.write(at, "stray", b"x")), []),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_is_dropped_and_made_again(built, bucket, data, name):
    whole = bucket.contents(built)
    damage, units = DAMAGE[name]
    damage(bucket, built)
    harmed = bucket.contents(built)
    dry = repair_store(built, dry_run=True)
    assert bucket.contents(built) == harmed
    assert repair_store(built) == dry
    assert [unit.unit for unit in dry.units] == units
    build(built, data)
    assert bucket.contents(built) == whole
    assert verify_store(built) == []


def test_the_command_repairs_a_bucket(built, bucket, capsys):
    bucket.delete(built, "sequences/c/2")
    assert run_command(["repair", built]) == 0
    out = capsys.readouterr().out
    assert "unit 2 (sequences from 8 on) dropped" in out
    assert f"logitstore build {built} ... --resume" in out
    with pytest.raises(StoreError, match="unfinished"):
        open_store(built)


def test_what_was_appended_is_repaired_in_a_bucket(built, bucket, data):
    options = {"data": [data], "teacher": toy_teacher(), "quiet": True}
    append_store(built, **options)
    whole = bucket.contents(built)
    name = "generations/0001/sequences/c/0"
    bucket.write(built, name, flipped(bucket.read(built, name)))
    assert [(unit.generation, unit.unit) for unit in repair_store(built).units] == [(1, 0)]
    with pytest.raises(StoreError, match="generations/0001, which was appended"):
        open_store(built)
    append_store(built, **options, resume=True)
    assert bucket.contents(built) == whole


def test_a_repair_that_is_stopped_leaves_a_store_as_before_or_one_to_resume(built, bucket, data, monkeypatch):
    whole = bucket.contents(built)
    stops, finished = 0, False
    while not finished:
        stops += 1
        bucket.write(built, "sequences/c/1", flipped(whole["sequences/c/1"]))
        bucket.delete(built, "sequences/c/3")
        with monkeypatch.context() as patched:
            # every third request, before and after it in turn
            stop = StopAt(patched, stops * size(full=1, small=3), after=stops % 2 == 0)
            try:
                repair_store(built)
                finished = True
            except KeyboardInterrupt:
                pass
        if "sealed.json" in bucket.names(built):
            assert verify_store(built)
            repair_store(built)
        build(built, data)
        assert bucket.contents(built) == whole, f"request {stops}: {stop.made[-1]}"
    assert {"create", "remove"} <= {operation for operation, _ in stop.made}
