"""A store of four units made by a toy teacher, and ways to damage it."""

import json
import shutil

import logitstore
from logitstore.build import local
from logitstore.build.plan import Plan
from logitstore.store.plan_file import write_plan
from logitstore.teachers import ArrayTeacher
from tests.support.toy_teachers import VOCAB_SIZE, ByteTokenizer, rows_after


def counting_teacher(calls):
    def function(tokens):
        calls.append(tuple(tokens[0].tolist()))
        return rows_after(tokens[0])[None]

    return ArrayTeacher(function, vocab_size=VOCAB_SIZE, name="toy")


def build_units_of_four(path, data, *, calls=None, **options):
    """Build or resume a store whose units are four sequences of 32 tokens."""
    real, local.make_plan = local.make_plan, lambda sequences, tokens: Plan(sequences, 4)
    try:
        return logitstore.build(
            path,
            teacher=counting_teacher([] if calls is None else calls),
            tokenizer=ByteTokenizer(),
            data=[data],
            seq_len=32,
            quiet=True,
            **options,
        )
    finally:
        local.make_plan = real


def make_whole(folder):
    """Make a sealed store `whole` of four units, its data `text.txt`, and its `plan`, in a folder."""
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 10)
    store = build_units_of_four(folder / "whole", folder / "text.txt")
    assert len(store.manifest["sealed"]["shards"]) == 4
    write_plan(folder / "plan", [(s.tokens.numpy(), s.document_starts.numpy()) for s in store])
    return folder


def resume(made, path, **options):
    """Resume a store that was repaired."""
    return build_units_of_four(path, made / "text.txt", resume=True, **options)


def shard(path, unit):
    return path / "sequences" / "c" / str(unit)


def files_of(path):
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 16
    path.write_bytes(data)


def exchange(first, second):
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def rewrite_json(path):
    path.write_text(json.dumps(json.loads(path.read_text())))


def copy(path, to):
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(path, to)
    return to
