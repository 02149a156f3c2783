"""Builders that are killed, and resumed until they are done."""

import os
import random
import time

import pytest

from logitstore.store.storage import LocalStorage
from tests.support.small_builds import build, fingerprint, write_data
from tests.torture.builders import check_visible, in_child, join, kill, leftovers
from tests.torture.record import record, size


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Data, the fingerprint of its store, and how long a build takes."""
    folder, seconds = tmp_path_factory.mktemp("undisturbed"), []
    data = write_data(folder)
    build(folder / "here", data)  # what is compiled and imported once, children have from here
    for attempt in range(3):
        begin = time.monotonic()
        child = in_child(build, folder / f"s{attempt}", data)
        assert os.waitpid(child, 0)[1] == 0
        seconds.append(time.monotonic() - begin)
        assert fingerprint(folder / f"s{attempt}") == fingerprint(folder / "here")
    return data, fingerprint(folder / "here"), min(seconds)


def test_a_killed_builder_resumes_to_the_same_bytes(tmp_path, undisturbed):
    data, wanted, seconds = undisturbed
    rng, kills, trials, killed_trials = random.Random(0), 0, size(full=200, small=12), 0
    for number in range(5 * trials):
        store, before = tmp_path / f"s{number}", kills
        for _ in range(100):
            child = in_child(build, store, data)
            time.sleep(rng.uniform(0, 1) * seconds)
            if not kill(child):
                break
            kills += 1
            check_visible(store)
        assert fingerprint(store) == wanted
        check_visible(store)
        assert leftovers(store) == []
        killed_trials += kills > before  # else it was done before its time
        if killed_trials == trials:
            break
    assert killed_trials == trials
    record("kill -9 of a builder, resumed until done", trials, f"{kills} kills; all stores equal the undisturbed one")


def test_one_of_three_workers_is_killed_and_the_others_finish_the_same_store(tmp_path, undisturbed):
    data, wanted, seconds = undisturbed
    rng, kills, trials = random.Random(1), 0, size(full=50, small=5)
    for number in range(20 * trials):
        store = tmp_path / f"s{number}"
        workers = [in_child(build, store, data)]
        while not (store / "manifest.json").exists():
            time.sleep(0.002)
        workers += [in_child(join, store) for _ in range(2)]
        time.sleep(rng.uniform(0, 0.7) * seconds)
        victim = workers.pop(rng.randrange(3))
        kills += kill(victim)
        assert [os.waitpid(worker, 0)[1] for worker in workers] == [0, 0]
        assert fingerprint(store) == wanted
        check_visible(store)
        assert leftovers(store) == []
        if kills == trials:
            break
    assert kills == trials  # the others were done before
    record("kill -9 of one of three workers", trials, "all were at work; all stores equal the undisturbed one")


def _race(storage, unit, number):
    content = f"writer {number}".encode()
    won = storage.create(f"commits/{unit:08d}.parquet", content)
    storage.create(f"results/{unit}/{number}", b"won" if won else storage.read(f"commits/{unit:08d}.parquet"))


def test_eight_writers_of_one_record_have_one_winner_and_the_losers_see_it(tmp_path):
    storage, rounds = LocalStorage(tmp_path / "s"), size(full=200, small=25)
    for unit in range(rounds):
        children = [in_child(_race, storage, unit, number) for number in range(8)]
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
        results = [storage.read(name) for name in storage.names(f"results/{unit}")]
        winner = storage.read(f"commits/{unit:08d}.parquet")
        assert len(results) == 8
        assert sorted(results) == sorted([winner] * 7 + [b"won"])
    record("eight writers race for one record", rounds, "one winner each, seven losers read its content")
