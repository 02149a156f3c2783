"""Repairs of what was appended to a store."""

import itertools

import pytest

from logitstore.build.append import append_store
from logitstore.cli.main import run as run_command
from logitstore.errors import StoreError
from logitstore.store import open_store, verify_store
from logitstore.store.layout import generation_name
from logitstore.store.repair import repair_store
from tests.build.repairable_stores import copy, counting_teacher, files_of, flip, make_whole, resume, shard
from tests.build.test_repair_goes_on import repair_stopped_before
from tests.support.toy_teachers import ByteTokenizer


def append(path, data, *, calls=None, **options):
    teacher = counting_teacher([] if calls is None else calls)
    return append_store(path, data=[data], teacher=teacher, tokenizer=ByteTokenizer(), quiet=True, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of three generations, their data `text.txt` and `more.txt`."""
    folder = make_whole(tmp_path_factory.mktemp("appended"))
    (folder / "more.txt").write_text("pack my box with five dozen liquor jugs. " * 300)
    append(folder / "whole", folder / "more.txt")
    append(folder / "whole", folder / "text.txt")
    assert len(open_store(folder / "whole").generations[1].manifest["sealed"]["shards"]) > 2
    return folder


@pytest.fixture
def store(made, tmp_path):
    return copy(made / "whole", tmp_path / "s")


def unsealed(path):
    with pytest.raises(StoreError) as caught:
        open_store(path)
    return caught.value


def test_what_follows_from_the_rest_is_written_anew(made, store):
    later = store / generation_name(1)
    (later / "zarr.json").unlink()
    (later / "stray").write_text("x")
    repair = repair_store(store)
    assert (repair.restored, list(repair.removed)) == (("generations/0001/zarr.json",), ["generations/0001/stray"])
    assert repair.is_sealed
    assert files_of(store) == files_of(made / "whole")


def test_a_damaged_shard_is_dropped_and_append_makes_just_that_again(made, store, capsys):
    first = len(open_store(store).generations[0])
    per_shard = open_store(store).generations[1].manifest["sequences_per_shard"]
    flip(shard(store / generation_name(1), 2), 40)
    before = files_of(store)
    dry = repair_store(store, dry_run=True)
    assert run_command(["repair", str(store), "--dry-run"]) == 0
    assert (
        f"unit 2 of generation 1 (sequences from {first + 2 * per_shard} on) would be dropped"
        in capsys.readouterr().out
    )
    assert files_of(store) == before
    repair = repair_store(store)
    assert repair == dry
    assert [(unit.generation, unit.unit, unit.first_sequence) for unit in repair.units] == [
        (1, 2, first + 2 * per_shard)
    ]
    assert "append" in repair.next_step
    # a store without its middle is none: it must not be taken for a smaller one
    error = unsealed(store)
    assert error.kind == "not-sealed"
    assert "append ... --resume" in str(error)
    assert run_command(["verify", str(store)]) == 2
    calls = []
    with pytest.raises(StoreError) as caught:
        append(store, made / "text.txt", resume=True)
    assert caught.value.kind == "settings-differ"
    append(store, made / "more.txt", resume=True, calls=calls)
    assert len(calls) == per_shard
    assert files_of(store) == files_of(made / "whole")
    assert verify_store(store) == []


def test_damage_in_every_generation_is_mended_one_after_the_other(made, store):
    for number in range(3):
        flip(shard(store / generation_name(number) if number else store, 0), 40)
    repair = repair_store(store)
    assert [(unit.generation, unit.unit) for unit in repair.units] == [(0, 0), (1, 0), (2, 0)]
    assert repair.next_step.count("--resume") == 3
    with pytest.raises(StoreError, match=r"build \.\.\. --resume"):
        append(store, made / "more.txt", resume=True)
    with pytest.raises(StoreError, match="generations/0001, which was appended"):
        resume(made, store)  # it is made again, and the next one is named
    with pytest.raises(StoreError, match="generations/0002, which was appended"):
        append(store, made / "more.txt", resume=True)
    append(store, made / "text.txt", resume=True)
    assert files_of(store) == files_of(made / "whole")


@pytest.mark.parametrize("number", [1, 2])
def test_a_lost_seal_is_no_smaller_store_and_is_made_anew(made, store, number):
    (store / generation_name(number) / "sealed.json").unlink()
    assert unsealed(store).kind == "not-sealed"
    repair = repair_store(store)
    assert (repair.units, repair.is_sealed, repair.next_step) == ((), True, "")
    assert files_of(store) == files_of(made / "whole")


@pytest.mark.parametrize("number", [1, 2])
def test_a_lost_generation_is_no_smaller_store_unless_it_was_the_last(store, number):
    for file in sorted((store / generation_name(number)).rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (store / generation_name(number)).rmdir()
    if number == 1:
        assert unsealed(store).kind == "not-sealed"
    else:
        assert len(open_store(store).generations) == 2


def test_a_generation_that_is_not_there_yet_is_no_reason_to_refuse_a_store(made, store, monkeypatch):
    from logitstore.build import run_units

    def stops(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run_units, "run_unit", stops)
        with pytest.raises(KeyboardInterrupt):
            append(store, made / "more.txt")
    assert len(open_store(store).generations) == 3
    assert verify_store(store) == []
    repair = repair_store(store)
    assert (repair.units, repair.removed, repair.is_sealed) == ((), {}, False)
    assert f"append {store} ... --resume" in repair.next_step
    assert len(append(store, made / "more.txt", resume=True).generations) == 4


def test_damage_of_an_unfinished_append_is_repaired_too(made, store, monkeypatch):
    from logitstore.build import run_units

    whole = files_of(append_copy(made, store.parent / "four"))
    real, done = run_units.run_unit, itertools.count()

    def stops(*arguments):
        if next(done) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(run_units, "run_unit", stops)
        with pytest.raises(KeyboardInterrupt):
            append(store, made / "more.txt")
    flip(shard(store / generation_name(3), 1), 40)
    assert [(unit.generation, unit.unit) for unit in repair_store(store).units] == [(3, 1)]
    append(store, made / "more.txt", resume=True)
    found = files_of(store)
    times = {f"{generation_name(3)}/{name}" for name in ("manifest.json", "sealed.json")}
    assert {k: v for k, v in found.items() if k not in times} == {k: v for k, v in whole.items() if k not in times}


def append_copy(made, path):
    copy(made / "whole", path)
    append(path, made / "more.txt")
    return path


def test_a_repair_that_is_stopped_anywhere_can_be_gone_on_with(made, tmp_path, monkeypatch):
    damaged = copy(made / "whole", tmp_path / "damaged")
    flip(shard(damaged / generation_name(1), 2), 40)
    flip(shard(damaged / generation_name(2), 0), 40)
    stops, finished = 0, False
    while not finished:
        stops += 1
        path = copy(damaged, tmp_path / "t")
        finished = repair_stopped_before(monkeypatch, stops, path)
        sealed = [(path / generation_name(number) / "sealed.json").exists() for number in (1, 2)]
        if all(sealed):
            assert verify_store(path)
        else:
            assert unsealed(path).kind == "not-sealed"
        if any(sealed):
            repair_store(path)
        with pytest.raises(StoreError, match="generations/0002, which was appended"):
            append(path, made / "more.txt", resume=True)
        append(path, made / "text.txt", resume=True)
        assert files_of(path) == files_of(made / "whole"), stops
    assert stops > 8


def test_what_was_appended_stays_while_the_first_part_is_made_again(made, store):
    flip(shard(store, 2), 40)
    assert [unit.unit for unit in repair_store(store).units] == [2]
    assert "unfinished" in str(unsealed(store))
    calls = []
    assert len(resume(made, store, calls=calls).generations) == 3
    assert len(calls) == 4
    assert files_of(store) == files_of(made / "whole")


@pytest.mark.parametrize("name", ["manifest.json", "frequencies.bin"])
def test_what_everything_depends_on_is_refused(store, name):
    flip(store / generation_name(1) / name, 40)
    before = files_of(store)
    with pytest.raises(StoreError) as caught:
        repair_store(store)
    assert caught.value.kind == "cannot-repair"
    assert f"generations/0001/{name}" in str(caught.value)
    assert files_of(store) == before
