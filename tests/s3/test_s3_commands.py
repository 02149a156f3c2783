"""What is done with a store, done in a bucket: by commands, and by what changes a store or makes another of it."""

import json

import pytest

from logitstore.build.append import append_store
from logitstore.build.merge import merge_stores
from logitstore.cli.main import run as run_command
from logitstore.store import open_store, verify_store
from tests.s3.s3_builds import StopAt
from tests.support.small_builds import build, fingerprint
from tests.support.toy_teachers import toy_teacher


def test_commands_say_of_a_bucket_what_they_say_of_a_folder(built, undisturbed, tmp_path, capsys):
    said = {}
    for place in (built, str(undisturbed)):
        for command in (["stats"], ["verify"], ["inspect", "--sequence", "3"]):
            assert run_command([command[0], place, *command[1:], "--json"]) == 0
            said.setdefault(command[0], []).append(json.loads(capsys.readouterr().out))
    here, there = said.pop("stats")
    assert here == there
    assert all(one == other for one, other in said.values())
    assert run_command(["export", built, str(tmp_path / "out"), "--format", "parquet", "--quiet"]) == 0
    assert any((tmp_path / "out").rglob("*.parquet"))


def test_commands_tell_a_bucket_that_is_not_there(capsys):
    assert run_command(["stats", "s3://no-such-bucket-here/store"]) != 0
    said = capsys.readouterr().err
    assert "no bucket no-such-bucket-here" in said
    assert "Traceback" not in said


def append(path, data, resume=False):
    return append_store(path, data=[data], teacher=toy_teacher(), tokens_field="ids", resume=resume, quiet=True)


def test_data_is_appended_in_a_bucket(built, data, tmp_path, monkeypatch):
    build(tmp_path / "here", data)
    before = open_store(built)
    append(tmp_path / "here", data)
    for nth in (30, 40):  # requests: before the first unit, and in the middle of what is left then
        with monkeypatch.context() as patched:
            StopAt(patched, nth, after=True)
            with pytest.raises(KeyboardInterrupt):
                append(built, data, resume=True)
        assert len(open_store(built)) == len(before)
    after = append(built, data, resume=True)
    assert len(after) == 2 * len(before)
    assert fingerprint(built) == fingerprint(tmp_path / "here")
    assert verify_store(built) == []
    assert before[3].tokens.tolist() == after[3].tokens.tolist()


def test_stores_are_merged_in_a_bucket(built, undisturbed, data, tmp_path):
    build(tmp_path / "other", data, seed=1)
    build(f"{built}-other", data, seed=1)
    merge_stores([undisturbed, tmp_path / "other"], tmp_path / "merged", quiet=True)
    merge_stores([undisturbed, f"{built}-other"], f"{built}-merged", quiet=True)
    assert fingerprint(f"{built}-merged") == fingerprint(tmp_path / "merged")
    assert verify_store(f"{built}-merged") == []
