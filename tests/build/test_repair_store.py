import json
import os

import numpy as np
import pytest

from logitstore.cli.main import run
from logitstore.errors import StoreError
from logitstore.store import open_store, verify_store
from logitstore.store.repair import repair_store
from logitstore.store.storage import LocalStorage
from tests.build.repairable_stores import (
    build_units_of_four,
    copy,
    exchange,
    files_of,
    flip,
    make_whole,
    resume,
    rewrite_json,
    shard,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_whole(tmp_path_factory.mktemp("repair"))


@pytest.fixture
def store(made, tmp_path):
    return copy(made / "whole", tmp_path / "s")


DAMAGE = {
    "a flipped bit": (lambda path: flip(shard(path, 1), 40), [1]),
    "a flipped bit in a shard's index": (lambda path: flip(shard(path, 3), -10), [3]),
    "a missing shard": (lambda path: shard(path, 2).unlink(), [2]),
    "a truncated shard": (lambda path: os.truncate(shard(path, 0), 100), [0]),
    "an empty shard": (lambda path: os.truncate(shard(path, 0), 0), [0]),
    "bytes after a shard": (lambda path: shard(path, 1).write_bytes(shard(path, 1).read_bytes() + b"x"), [1]),
    "two shards exchanged": (lambda path: exchange(shard(path, 0), shard(path, 2)), [0, 2]),
    "several": (lambda path: (flip(shard(path, 0), 99), shard(path, 3).unlink(), (path / "x").write_text("x")), [0, 3]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_repaired_store_is_resumed_to_the_bytes_of_an_undisturbed_build(made, store, name):
    damage, units = DAMAGE[name]
    damage(store)
    repair = repair_store(store)
    assert [unit.unit for unit in repair.units] == units
    assert not repair.is_sealed
    assert "--resume" in repair.next_step
    with pytest.raises(StoreError, match="unfinished"):
        open_store(store)
    assert len(list((store / "commits").iterdir())) == 4 - len(units)
    calls = []
    resume(made, store, calls=calls)
    assert len(calls) == sum(3 if unit == 3 else 4 for unit in units)  # only what was dropped ran again
    assert files_of(store) == files_of(made / "whole")
    assert verify_store(store) == []


IN_PLACE = {
    "zarr.json damaged": (lambda path: flip(path / "zarr.json", 9), ["zarr.json"], []),
    "zarr.json missing": (lambda path: (path / "sequences/zarr.json").unlink(), ["sequences/zarr.json"], []),
    "zarr.json spelled otherwise": (lambda path: rewrite_json(path / "zarr.json"), ["zarr.json"], []),
    "an orphan": (lambda path: shard(path, 9).write_text("x"), [], ["sequences/c/9"]),
    "a plan left over": (lambda path: (path / "plan.parquet").write_text("x"), [], ["plan.parquet"]),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_what_follows_from_the_rest_is_repaired_in_place(made, store, name):
    damage, restored, removed = IN_PLACE[name]
    damage(store)
    repair = repair_store(store)
    assert (list(repair.restored), list(repair.removed), repair.is_sealed) == (restored, removed, True)
    assert files_of(store) == files_of(made / "whole")


RESEALED = {
    "sealed.json missing": lambda path: (path / "sealed.json").unlink(),
    "sealed.json damaged": lambda path: flip(path / "sealed.json", 50),
    "sealed.json empty": lambda path: os.truncate(path / "sealed.json", 0),
}


@pytest.mark.parametrize("name", RESEALED)
def test_a_store_without_its_seal_is_sealed_again_without_the_teacher(made, store, name):
    RESEALED[name](store)
    repair = repair_store(store)
    assert repair.is_sealed
    assert not repair.units
    assert files_of(store) == files_of(made / "whole")


@pytest.mark.parametrize("name", ["index.parquet", "sealed.json and index.parquet"])
def test_shards_are_kept_though_their_index_is_gone(made, store, name):
    for file in name.split(" and "):
        flip(store / file, 60)
    repair = repair_store(store)
    assert not repair.units
    assert not repair.is_sealed
    calls = []
    resume(made, store, calls=calls)
    assert calls == []
    assert files_of(store) == files_of(made / "whole")


def test_of_a_store_without_seal_and_index_only_whole_shards_are_kept(made, store):
    for file in ("sealed.json", "index.parquet"):
        (store / file).unlink()
    flip(shard(store, 1), 40)
    exchange(shard(store, 0), shard(store, 2))  # only the plan tells
    assert [unit.unit for unit in repair_store(store).units] == [1]
    calls = []
    resume(made, store, calls=calls)
    assert len(calls) == 12
    assert files_of(store) == files_of(made / "whole")


def test_a_store_without_a_seal_drops_shards_that_its_index_does_not_describe(made, store):
    (store / "sealed.json").unlink()
    exchange(shard(store, 0), shard(store, 2))
    os.truncate(shard(store, 3), 50)
    assert [unit.unit for unit in repair_store(store).units] == [0, 2, 3]
    resume(made, store)
    assert files_of(store) == files_of(made / "whole")


@pytest.mark.parametrize("name", ["frequencies.bin", "manifest.json"])
@pytest.mark.parametrize("change", [lambda path: flip(path, 30), lambda path: os.truncate(path, 10)])
def test_what_everything_depends_on_is_refused_with_what_can_be_done(store, name, change):
    change(store / name)
    before = files_of(store)
    with pytest.raises(StoreError, match=rf"{name}.*copy|{name}.*Copy") as caught:
        repair_store(store)
    assert caught.value.kind == "cannot-repair"
    assert files_of(store) == before


def test_a_missing_table_can_be_had_from_the_same_build_elsewhere(made, store, tmp_path):
    (store / "frequencies.bin").unlink()
    with pytest.raises(StoreError, match="begin the same build in another folder"):
        repair_store(store)
    build_units_of_four(tmp_path / "other", made / "text.txt")
    (tmp_path / "other" / "frequencies.bin").rename(store / "frequencies.bin")
    assert repair_store(store).is_sealed
    assert verify_store(store) == []


def test_a_clean_store_is_left_as_it_is(made, store):
    repair = repair_store(store)
    assert (repair.units, repair.removed, repair.restored, repair.is_sealed) == ((), {}, (), True)
    assert files_of(store) == files_of(made / "whole")


def test_a_dry_run_says_the_same_and_changes_nothing(store):
    flip(shard(store, 1), 40)
    (store / "stray").write_text("x")
    before = files_of(store)
    said = repair_store(store, dry_run=True)
    assert files_of(store) == before
    assert repair_store(store) == said


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(StoreError) as caught:
        repair_store(tmp_path / "nothing")
    assert caught.value.kind == "not-a-store"


def test_a_place_that_does_not_answer_is_no_damage(store, monkeypatch):
    def fails(self, name):
        raise StoreError("the server does not answer.", kind="unreadable")

    before = files_of(store)
    monkeypatch.setattr(LocalStorage, "sha256", fails)
    with pytest.raises(StoreError, match="does not answer"):
        repair_store(store)
    assert files_of(store) == before


def test_the_command_reports_what_it_did(store, capsys):
    flip(shard(store, 1), 40)
    (store / "stray").write_text("x")
    assert run(["repair", str(store), "--dry-run"]) == 0
    assert "unit 1 (sequences from 4 on) would be dropped" in capsys.readouterr().out
    assert run(["repair", str(store), "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert [unit["unit"] for unit in done["units"]] == [1]
    assert done["removed"].keys() == {"sequences/c/1", "stray", "sealed.json", "index.parquet", *_METADATA}
    assert done["is_sealed"] is False
    assert run(["verify", str(store)]) == 2
    assert run(["repair", str(store)]) == 0
    assert "is unfinished. Go on by `logitstore build" in capsys.readouterr().out


_METADATA = ("zarr.json", "sequences/zarr.json")


def test_lengths_do_not_change_with_a_repair(made, store):
    flip(shard(store, 0), 40)
    repair_store(store)
    assert np.array_equal(resume(made, store).sequence_lengths, open_store(made / "whole").sequence_lengths)
