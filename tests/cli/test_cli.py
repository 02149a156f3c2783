import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from logitstore.cli.main import COMMANDS, root, run
from logitstore.store import open_store
from tests.support.stores import make_store

REPOSITORY = Path(__file__).parents[2]


def all_commands():
    context = click.Context(root)
    return {name: root.get_command(context, name) for name in COMMANDS}


@pytest.fixture
def store(tmp_path):
    make_store(tmp_path / "s", lengths=[5, 7, 3], eod_id=2)
    return tmp_path / "s"


def test_every_command_and_option_has_help_and_an_example():
    for name, command in all_commands().items():
        assert command.help, name
        assert f"logitstore {name}" in command.epilog, name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, (name, parameter.name)


def test_every_command_and_option_is_in_the_docs():
    text = (REPOSITORY / "docs" / "commands.md").read_text()
    for name, command in all_commands().items():
        assert f"logitstore {name}" in text
        for parameter in command.params:
            for option in parameter.opts if isinstance(parameter, click.Option) else []:
                assert f"`{option}" in text, (name, option)
                assert parameter.help in text, (name, option)


def test_help_needs_no_torch():
    code = "import sys; from logitstore.cli.main import run; run(['--help']); print('torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip().endswith("False")
    assert "Exit codes" in output


def test_stats_and_inspect_agree_with_the_library(store, capsys):
    assert run(["stats", str(store), "--json"]) == 0
    statistics = json.loads(capsys.readouterr().out)
    assert (statistics["sequences"], statistics["tokens"], statistics["vocab_size"]) == (3, 15, 50)
    assert run(["inspect", str(store), "--sequence", "1", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    sequence = open_store(store)[1]
    assert shown["tokens"] == sequence.tokens.tolist()
    assert run(["inspect", str(store), "--sequence", "1", "--position", "-1", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    last = sequence.targets.slice(6, 7)
    assert sorted(shown["ids"]) == last.ids.tolist()
    assert shown["weights"] == sorted(last.weights.tolist(), reverse=True)
    assert (shown["position"], shown["next_token"]) == (6, None)
    assert run(["inspect", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["eod_id"] == 2


def test_the_same_for_people(store, capsys):
    for arguments in (["stats"], ["inspect"], ["inspect", "--sequence", "0"], ["verify"]):
        assert run([arguments[0], str(store), *arguments[1:]]) == 0
    assert "is clean" in capsys.readouterr().out


def test_verify_says_what_is_wrong_and_exits_1(store, capsys):
    path = store / "sequences" / "c" / "0"
    data = bytearray(path.read_bytes())
    data[20] ^= 4
    path.write_bytes(data)
    assert run(["verify", str(store), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["clean"] is False
    assert {"kind", "where", "message"} == set(result["findings"][0])
    assert any(finding["where"] == "sequence 0" for finding in result["findings"])


@pytest.mark.parametrize("command", ["stats", "inspect", "verify"])
def test_no_store_is_refused_in_one_paragraph_without_a_traceback(tmp_path, command, capsys):
    assert run([command, str(tmp_path / "nothing")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("StoreError[not-a-store]: ")
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "--sequence", "9"], "no sequence 9"),
        (["inspect", "--position", "99"], "no position 99"),
    ],
)
def test_places_that_do_not_exist_are_refused(store, arguments, message, capsys):
    assert run([arguments[0], str(store), *arguments[1:]]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["nothing"], ["build"], ["stats", "--wrong"]])
def test_wrong_usage_exits_2(arguments):
    assert run(arguments) == 2


def test_a_teacher_that_is_missing_is_refused_and_nothing_is_left(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("some text")
    code = run(["build", str(tmp_path / "s"), "--teacher", str(tmp_path / "none"), "--data", str(tmp_path / "a.txt")])
    assert code == 2
    assert "TeacherError[teacher-missing]" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_data_that_is_missing_is_refused(tmp_path, capsys):
    code = run(["build", str(tmp_path / "s"), "--teacher", "none", "--data", str(tmp_path / "none.txt")])
    assert code == 2
    assert "InvalidInput[data-missing]" in capsys.readouterr().err


SLOW_BUILD = """
import sys, time, torch, logitstore
from logitstore.cli import build as command
from logitstore.cli.main import main
from logitstore.teachers import ArrayTeacher
import logitstore.build.local as local

def slow(tokens):
    time.sleep(0.05)
    print("step", flush=True)
    return torch.zeros(1, tokens.shape[1], 50)

teacher = ArrayTeacher(slow, vocab_size=50, name="slow")
real = local.build
import logitstore.build as room
room.__class__.__call__ = lambda self, path, **options: real(path, **options | {"teacher": teacher})
main(sys.argv[1:])
"""


def test_ctrl_c_exits_130_and_leaves_what_is_committed(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"ids": [' + ",".join(["1"] * 40_000) + "]}\n")
    arguments = ["build", str(tmp_path / "s"), "--teacher", "x", "--data", str(tmp_path / "a.jsonl")]
    arguments += ["--tokens-field", "ids", "--seq-len", "100"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_BUILD, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    # 51 calls of the pilot, 35 of the rest of the first unit; the next one comes after its commit
    for _ in range(92):
        assert process.stdout.readline() == "step\n"
    os.kill(process.pid, signal.SIGINT)
    begin = time.monotonic()
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert time.monotonic() - begin < 30
    assert "Traceback" not in error
    assert "--resume" in error
    assert len(list((tmp_path / "s" / "commits").iterdir())) >= 1
    assert list((tmp_path / "s" / "attempts").iterdir()) == []
    assert run(["stats", str(tmp_path / "s")]) == 2
