"""Repairs that are stopped, and repairs of stores that are not one sealed build."""

import json

import pytest

from logitstore.build.merge import merge_stores
from logitstore.build.thin import thin_store
from logitstore.samplers import RandomSampling, Threshold
from logitstore.store import create_store, open_store, verify_store
from logitstore.store.frequency_table import read_store_table
from logitstore.store.manifest import read_manifest
from logitstore.store.recover import INTENT
from logitstore.store.repair import repair_store
from logitstore.store.storage import LocalStorage
from logitstore.store.writer import UnitWriter
from tests.build.repairable_stores import (
    build_units_of_four,
    copy,
    files_of,
    flip,
    make_whole,
    resume,
    shard,
)
from tests.support.stores import random_targets
from tests.support.toy_teachers import rows_after


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_whole(tmp_path_factory.mktemp("repair"))


@pytest.fixture
def store(made, tmp_path):
    return copy(made / "whole", tmp_path / "s")


DAMAGE = {
    "several": lambda path: (flip(shard(path, 0), 99), shard(path, 3).unlink(), (path / "x").write_text("x")),
    "sealed.json and index.parquet": lambda path: (flip(path / "sealed.json", 50), flip(path / "index.parquet", 60)),
}


class Stopped(BaseException):
    pass


def stop_before(monkeypatch, number):
    """Let nothing happen from the `number`-th change of a folder on."""
    calls = []

    def wrapped(real):
        def change(self, *arguments):
            calls.append(1)
            if len(calls) >= number:
                raise Stopped
            return real(self, *arguments)

        return change

    for name in ("create_from", "remove"):
        monkeypatch.setattr(LocalStorage, name, wrapped(getattr(LocalStorage, name)))


def repair_stopped_before(monkeypatch, number, path):
    """Repair a store, but for its `number`-th change and all after it; return whether there was none to leave out."""
    with monkeypatch.context() as patched:
        stop_before(patched, number)
        try:
            repair_store(path)
        except Stopped:
            return False
    return True


def stale_shard(made, folder):
    """Return a whole shard with the tokens of unit 0 that another draw has made."""
    storage, stored = LocalStorage(folder), read_manifest(LocalStorage(made / "whole"))
    with UnitWriter(storage, 0, stored, read_store_table(LocalStorage(made / "whole"))) as writer:
        for index in range(4):
            sequence = open_store(made / "whole")[index]
            targets = Threshold(20)(rows_after(sequence.tokens.long())[:, :260], seed=1, index=index)
            writer.append(sequence.tokens.numpy(), targets, sequence.document_starts.numpy())
        writer.commit()
    return shard(folder, 0)


@pytest.mark.parametrize("name", [*DAMAGE, "a stale shard"])
def test_a_repair_that_is_stopped_anywhere_leaves_a_store_as_before_or_one_to_resume(made, tmp_path, monkeypatch, name):
    store = copy(made / "whole", tmp_path / "s")
    if name == "a stale shard":
        stale_shard(made, tmp_path / "other").replace(shard(store, 0))
    else:
        DAMAGE[name](store)
    damaged = files_of(store)
    stops, finished = 0, False
    while not finished:
        stops += 1
        path = copy(store, tmp_path / "t")
        finished = repair_stopped_before(monkeypatch, stops, path)
        now = files_of(path)
        if "sealed.json" in now:
            assert {file: now.get(file) for file in damaged} == damaged
            assert verify_store(path)
            repair_store(path)
        calls = []
        resume(made, path, calls=calls)
        assert files_of(path) == files_of(made / "whole"), stops
    assert stops > 4


def test_an_intent_of_a_repair_that_had_not_begun_is_forgotten(made, store):
    storage = LocalStorage(store)
    storage.create(INTENT, json.dumps({"remove": ["sealed.json", "sequences/c/1"]}).encode())
    assert repair_store(store).is_sealed
    assert files_of(store) == files_of(made / "whole")


def interrupted(made, path, units):
    """Leave an unfinished store of so many committed units."""
    from logitstore.build import run_units

    real, done = run_units.run_unit, []

    def stops(*arguments):
        if len(done) == units:
            raise KeyboardInterrupt
        done.append(1)
        return real(*arguments)

    run_units.run_unit = stops
    try:
        with pytest.raises(KeyboardInterrupt):
            build_units_of_four(path, made / "text.txt")
    finally:
        run_units.run_unit = real


UNFINISHED = {
    "nothing": (lambda path: None, []),
    "a shard": (lambda path: flip(shard(path, 0), 40), [0]),
    "a commit record": (lambda path: flip(path / "commits" / "00000001.parquet", 40), [1]),
    "the plan": (lambda path: flip(path / "plan.parquet", 40), []),
    "the pilot": (lambda path: flip(path / "pilot.parquet", 40), []),
    "a shard without a record": (lambda path: shard(path, 2).write_bytes(shard(path, 1).read_bytes()[:99]), [2]),
}


@pytest.mark.parametrize("name", UNFINISHED)
def test_an_unfinished_store_is_repaired_too(made, tmp_path, name):
    interrupted(made, tmp_path / "s", 2)
    damage, units = UNFINISHED[name]
    damage(tmp_path / "s")
    assert [unit.unit for unit in repair_store(tmp_path / "s").units] == units
    resume(made, tmp_path / "s")
    whole, found = files_of(made / "whole"), files_of(tmp_path / "s")
    # two builds differ in when they were begun
    times = ("manifest.json", "sealed.json")
    assert {k: v for k, v in found.items() if k not in times} == {k: v for k, v in whole.items() if k not in times}


def test_a_thinned_store_is_repaired_and_thinned_again(made, tmp_path):
    thin_store(made / "whole", tmp_path / "t", draws=5, quiet=True)
    whole = files_of(tmp_path / "t")
    flip(shard(tmp_path / "t", 2), 40)
    repair = repair_store(tmp_path / "t")
    assert repair.next_step == "the `logitstore thin` that made it, with --resume"
    thin_store(made / "whole", tmp_path / "t", draws=5, resume=True, quiet=True)
    assert files_of(tmp_path / "t") == whole


def test_a_merged_store_is_repaired_and_merged_again(made, tmp_path):
    build_units_of_four(tmp_path / "other", made / "text.txt", seed=1)
    sources = [made / "whole", tmp_path / "other"]
    merge_stores(sources, tmp_path / "m", quiet=True)
    whole = files_of(tmp_path / "m")
    flip(shard(tmp_path / "m", 2), 40)
    assert repair_store(tmp_path / "m").next_step == "the `logitstore merge` that made it, with --resume"
    merge_stores(sources, tmp_path / "m", resume=True, quiet=True)
    assert files_of(tmp_path / "m") == whole


def append_all(path, tokens, targets, **options):
    settings = {"vocab_size": 50, "sampler": RandomSampling(8), "sequences_per_shard": 2}
    with create_store(path, **settings, **options) as writer:
        first = writer.num_sequences
        for ids, sparse in list(zip(tokens, targets, strict=True))[first:]:
            writer.append(ids, sparse, document_starts=[0])
    return first


@pytest.mark.parametrize(("unit", "goes_on_from"), [(0, 0), (1, 2), (3, 6)])
def test_a_store_made_sequence_by_sequence_goes_on_from_its_first_gap(tmp_path, unit, goes_on_from):
    tokens, targets = random_targets([5] * 7)
    append_all(tmp_path / "s", tokens, targets)
    whole = files_of(tmp_path / "s")
    flip(shard(tmp_path / "s", unit), 30)
    assert f"from {goes_on_from} on" in repair_store(tmp_path / "s").next_step
    assert append_all(tmp_path / "s", tokens, targets, resume=True) == goes_on_from
    assert files_of(tmp_path / "s") == whole
