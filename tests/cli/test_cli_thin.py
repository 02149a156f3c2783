import pytest

from logitstore.cli.main import run
from logitstore.samplers import RandomSampling, Threshold, TopK
from logitstore.store import open_store
from tests.support.stores import make_store


@pytest.fixture
def store(tmp_path):
    make_store(tmp_path / "s", lengths=[5, 7, 3], sampler=Threshold(20))
    return tmp_path / "s"


def test_thin_writes_a_store_that_the_other_commands_read(store, tmp_path, capsys):
    out = tmp_path / "t"
    assert run(["thin", str(store), str(out), "--draws", "6", "--seed", "4"]) == 0
    captured = capsys.readouterr()
    assert f"{out} is complete" in captured.out
    assert "thinning: 15/15 positions" in captured.err
    assert open_store(out).manifest["sampler"]["draws"] == 6
    assert open_store(out).manifest["thinned_from"][0]["seed"] == 4
    for command in ("verify", "stats", "inspect"):
        assert run([command, str(out)]) == 0


def test_thin_can_be_quiet_and_resumed(store, tmp_path, capsys):
    arguments = ["thin", str(store), str(tmp_path / "t"), "--draws", "6", "--quiet"]
    assert run(arguments) == 0
    assert capsys.readouterr().err == ""
    assert run(arguments) == 2
    assert "StoreError[exists]" in capsys.readouterr().err
    assert run([*arguments, "--resume"]) == 0
    arguments[4] = "7"
    assert run([*arguments, "--resume"]) == 2
    assert "sampler.draws: the store has 6, asked for was 7" in capsys.readouterr().err


@pytest.mark.parametrize(("sampler", "draws"), [(TopK(9), "3"), (RandomSampling(9, 0.5), "3"), (Threshold(9), "9")])
def test_what_cannot_be_thinned_exits_2_in_one_line(tmp_path, sampler, draws, capsys):
    make_store(tmp_path / "s", lengths=[5], sampler=sampler)
    assert run(["thin", str(tmp_path / "s"), str(tmp_path / "t"), "--draws", draws]) == 2
    error = capsys.readouterr().err
    assert error.startswith("InvalidInput[invalid-input]: ")
    assert len(error.splitlines()) == 1


def test_a_damaged_store_exits_1(store, tmp_path, capsys):
    (store / "sequences" / "c" / "0").write_bytes(b"")
    assert run(["thin", str(store), str(tmp_path / "t"), "--draws", "3", "--quiet"]) == 1
    assert "StoreError[truncated]" in capsys.readouterr().err


def test_draws_must_be_given(store, tmp_path):
    assert run(["thin", str(store), str(tmp_path / "t")]) == 2
