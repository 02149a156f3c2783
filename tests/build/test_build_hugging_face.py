import json

import pytest
import torch

import logitstore
from logitstore.cli.main import run
from logitstore.errors import InvalidInput, StoreError, TeacherError
from logitstore.samplers import Threshold
from logitstore.store import verify_store
from tests.support.tiny_models import make_tiny_teacher


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    lines = [{"text": f"document {number} speaks of the number {number * number}"} for number in range(40)]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "b.txt").write_text("a text of its own, at the end")
    return folder


def build(path, teacher, corpus, **options):
    return logitstore.build(path, teacher=teacher, data=[corpus], seq_len=32, quiet=True, **options)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("pack", [True, False])
def test_entries_are_a_direct_run_of_the_teacher(tmp_path, corpus, architecture, pack):
    transformers = pytest.importorskip("transformers")
    make_tiny_teacher(tmp_path / "teacher", architecture=architecture)
    sampler = Threshold(30)
    store = build(tmp_path / "s", tmp_path / "teacher", corpus, pack=pack, sampler=sampler, batch_size=1)
    assert verify_store(tmp_path / "s") == []
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "teacher").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "teacher")
    assert store.manifest["eod_id"] == tokenizer.eos_token_id
    if not pack:
        assert len(store) >= 41
    for sequence in list(store)[:12]:
        with torch.no_grad():
            logits = model(sequence.tokens[None].long()).logits[0]
        logits[:, len(tokenizer) :] = -float("inf")
        assert torch.equal(sequence.targets.ids, sampler(logits, index=sequence.index).ids)


def test_another_teacher_is_refused_on_resume_by_its_weights(tmp_path, corpus):
    make_tiny_teacher(tmp_path / "one", seed=0)
    make_tiny_teacher(tmp_path / "two", seed=1)
    build(tmp_path / "s", tmp_path / "one", corpus)
    with pytest.raises(StoreError, match=r"teacher\.weights_sha256: the store has"):
        build(tmp_path / "s", tmp_path / "two", corpus, resume=True)
    (tmp_path / "one").rename(tmp_path / "moved")
    build(tmp_path / "s", tmp_path / "moved", corpus, resume=True)


def test_the_command_builds_what_the_function_builds(tmp_path, corpus, capsys):
    make_tiny_teacher(tmp_path / "teacher")
    build(tmp_path / "a", tmp_path / "teacher", corpus, sampler=Threshold(20), seed=3)
    arguments = ["build", str(tmp_path / "b"), "--teacher", str(tmp_path / "teacher"), "--data", str(corpus)]
    assert run([*arguments, "--seq-len", "32", "--draws", "20", "--seed", "3"]) == 0
    captured = capsys.readouterr()
    assert "entries and" in captured.err
    assert "free" in captured.err
    for shard in (tmp_path / "a" / "sequences" / "c").iterdir():
        assert (tmp_path / "b" / "sequences" / "c" / shard.name).read_bytes() == shard.read_bytes()
    assert (
        logitstore.open_store(tmp_path / "a").manifest_sha256 == logitstore.open_store(tmp_path / "b").manifest_sha256
    )


def test_what_a_teacher_cannot_do_is_refused_before_anything_is_written(tmp_path, corpus):
    make_tiny_teacher(tmp_path / "teacher", context_length=64)
    with pytest.raises((TeacherError, InvalidInput), match=r"65.*64|64.*65") as caught:
        logitstore.build(tmp_path / "s", teacher=tmp_path / "teacher", data=[corpus], seq_len=65, quiet=True)
    assert (caught.value.kind, caught.value.exit_code) == ("context-too-short", 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "teacher"]
