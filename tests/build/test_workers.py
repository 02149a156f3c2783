import json
import threading

import pytest

import logitstore
from logitstore.build.claims import Claims
from logitstore.build.join import join_build
from logitstore.cli.main import run as run_command
from logitstore.errors import InvalidInput, StoreError
from logitstore.store import create_store, open_store, verify_store
from logitstore.store.storage import LocalStorage
from logitstore.teachers import ArrayTeacher
from tests.support.small_builds import build, fingerprint, write_data
from tests.support.tiny_models import make_tiny_teacher
from tests.support.toy_teachers import VOCAB_SIZE, toy_teacher
from tests.torture.builders import join


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path)


def commit(storage, unit):
    storage.create(f"commits/{unit:08d}.parquet", b"")


def test_each_unit_is_claimed_once_before_any_is_claimed_twice(tmp_path):
    storage = LocalStorage(tmp_path / "s")
    first, second = Claims(storage, 3), Claims(storage, 3)
    taken = [first.take(), second.take(), first.take()]
    assert [(claim.unit, claim.is_shared) for claim in taken] == [(0, False), (1, False), (2, False)]
    commit(storage, 1)
    again = [second.take(), second.take(), first.take()]
    assert [(claim.unit, claim.is_shared) for claim in again] == [(0, True), (2, True), (0, True)]
    assert not second.is_overtaken(again[0])
    commit(storage, 0)
    assert second.is_overtaken(again[0])
    commit(storage, 2)
    assert first.take() is None


def test_nothing_is_claimed_of_a_store_that_was_sealed_meanwhile(tmp_path):
    storage = LocalStorage(tmp_path / "s")
    claims = Claims(storage, 2)
    storage.create("sealed.json", b"{}")  # the records of its units are gone
    assert claims.take() is None


def test_racing_processes_claim_different_units(tmp_path):
    storage, taken = LocalStorage(tmp_path / "s"), []

    def take():
        claims = Claims(storage, 40)
        taken.extend(claims.take().unit for _ in range(5))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(40))


def stopped(tmp_path, data, monkeypatch, after):
    """Begin a store, and stop after some units."""
    from logitstore.build import run_units

    real, made = run_units.run_unit, []

    def stops(*arguments):
        if len(made) == after:
            raise KeyboardInterrupt
        made.append(real(*arguments))

    with monkeypatch.context() as patched:
        patched.setattr(run_units, "run_unit", stops)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "s", data)


def test_whoever_joins_makes_what_is_left_and_reads_no_data(tmp_path, data, monkeypatch):
    build(tmp_path / "whole", data)
    stopped(tmp_path, data, monkeypatch, after=4)
    data.unlink()
    store = join(tmp_path / "s")
    assert verify_store(tmp_path / "s") == []
    assert fingerprint(tmp_path / "s") == fingerprint(tmp_path / "whole")
    assert len(join(tmp_path / "s")) == len(store)  # a finished one is left as it is


def test_an_overtaken_process_goes_on_with_something_else(tmp_path, data, monkeypatch):
    from logitstore.build import run_units

    build(tmp_path / "whole", data)
    stopped(tmp_path, data, monkeypatch, after=0)
    # the claim of the stopped process stands: this unit comes last, and another process commits it meanwhile
    real, order = run_units.run_unit, []

    def overtaken(store, unit, maker, on_sequence):
        order.append(unit)
        if unit == 0:
            real(store, unit, maker, lambda positions, writer: None)
        real(store, unit, maker, on_sequence)

    monkeypatch.setattr(run_units, "run_unit", overtaken)
    join(tmp_path / "s")
    assert order[-1] == 0
    assert sorted(order) == list(range(10))
    assert fingerprint(tmp_path / "s") == fingerprint(tmp_path / "whole")


def refusal(function, *arguments, **options):
    with pytest.raises(StoreError) as caught:
        function(*arguments, **options)
    return caught.value


def test_what_cannot_be_joined_is_refused(tmp_path, data, monkeypatch):
    assert refusal(join, tmp_path / "nothing").kind == "not-a-store"
    stopped(tmp_path, data, monkeypatch, after=1)
    other = ArrayTeacher(lambda tokens: tokens, vocab_size=VOCAB_SIZE, name="toy", context_length=77)
    error = refusal(join_build, tmp_path / "s", teacher=other, quiet=True)
    assert error.kind == "settings-differ"
    assert "teacher.context_length: the store has None, asked for was 77" in str(error)
    create_store(tmp_path / "own", vocab_size=9, sampler=logitstore.samplers.RandomSampling(3))
    assert refusal(join, tmp_path / "own").kind == "not-a-build"
    for workers in (0, 2):
        with pytest.raises(InvalidInput, match=r"workers is 0|object of this process"):
            logitstore.build(tmp_path / "t", teacher=toy_teacher(), data=[data], tokens_field="ids", workers=workers)


def test_settings_beside_join_are_refused(tmp_path, capsys):
    assert run_command(["build", str(tmp_path / "s"), "--join", "--seed", "3", "--k", "5"]) == 2
    assert "leave --seed, --k out" in capsys.readouterr().err
    assert run_command(["build", str(tmp_path / "s"), "--teacher", "x"]) == 2
    assert "Missing option '--data'" in capsys.readouterr().err


def test_workers_of_the_command_line_build_one_store(tmp_path, capfd):
    make_tiny_teacher(tmp_path / "teacher")
    (tmp_path / "a.jsonl").write_text(json.dumps({"ids": [i % 200 for i in range(64 * 160)]}) + "\n")
    options = ["--teacher", str(tmp_path / "teacher"), "--data", str(tmp_path / "a.jsonl"), "--tokens-field", "ids"]
    options += ["--seq-len", "64", "--no-bos"]
    assert run_command(["build", str(tmp_path / "one"), *options]) == 0
    assert run_command(["build", str(tmp_path / "two"), *options, "--workers", "2"]) == 0
    assert "exit code" not in capfd.readouterr().err
    assert verify_store(tmp_path / "two") == []
    one, two = open_store(tmp_path / "one"), open_store(tmp_path / "two")
    assert [s.tokens.tolist() for s in one] == [s.tokens.tolist() for s in two]
    assert [s.targets.ids.tolist() for s in one] == [s.targets.ids.tolist() for s in two]
