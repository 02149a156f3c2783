"""Misalignment: what does not belong together is refused on resume, naming the field, or found by `verify --rescore`.

A store that is right is accused with a chance below 1e-6 (`rescore_report.FALSE_ALARM`).
"""

import json

import pytest
import torch

from logitstore.build.append import append_store
from logitstore.build.rescore import rescore_store
from logitstore.cli.main import run
from tests.support.tiny_models import make_tiny_teacher, make_tiny_tokenizer

#: padded in steps of 16, as 151,936 is to 152,064 in steps of 128
WIDTH, PADDED_WIDTH, TOKENIZER_SIZE = 304, 320, 300
SAMPLERS = {
    "threshold": ["--sampler", "threshold", "--draws", "8"],
    "random-sampling": ["--sampler", "random-sampling", "--draws", "12"],
    "top-k": ["--sampler", "top-k", "--k", "12"],
    "top-p": ["--sampler", "top-p", "--p", "0.8"],
}
LINES = [f"the quick brown fox number {number} jumps over the lazy dog" for number in range(60)]


def padded_copy(teacher, folder):
    """Save the same teacher with more columns of logits, as frameworks pad a vocabulary."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(teacher)
    model.resize_token_embeddings(PADDED_WIDTH, mean_resizing=False)
    model.save_pretrained(folder)
    make_tiny_tokenizer(TOKENIZER_SIZE).save_pretrained(folder)


def other_tokenizer(teacher, folder):
    """Save the same teacher with a tokenizer of the same size in which two letters have changed places."""
    import transformers

    transformers.AutoModelForCausalLM.from_pretrained(teacher).save_pretrained(folder)
    make_tiny_tokenizer(TOKENIZER_SIZE).save_pretrained(folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["e"], vocabulary["o"] = vocabulary["o"], vocabulary["e"]
    file.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the teacher, others that are not it, and data."""
    folder = tmp_path_factory.mktemp("misalignment")
    make_tiny_teacher(folder / "teacher", vocab_size=WIDTH, tokenizer_size=TOKENIZER_SIZE)
    make_tiny_teacher(folder / "revision", vocab_size=WIDTH, tokenizer_size=TOKENIZER_SIZE, seed=1)
    padded_copy(folder / "teacher", folder / "padded")
    other_tokenizer(folder / "teacher", folder / "tokenizer")
    (folder / "data.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in LINES))
    return folder


def build(place, store, sampler, *more, teacher="teacher", data=None):
    arguments = ["build", str(store), "--teacher", str(place / teacher), "--data", str(data or place / "data.jsonl")]
    return run([*arguments, "--seq-len", "64", "--quiet", *SAMPLERS[sampler], *more])


@pytest.fixture(scope="module", params=SAMPLERS)
def made(place, request):
    """A sealed store, and the name of its sampler."""
    path = place / f"store-{request.param}"
    assert build(place, path, request.param) == 0
    return path, request.param


def verify(capsys, path, *more):
    capsys.readouterr()
    code = run(["verify", str(path), "--rescore", "1", "--json", *map(str, more)])
    return code, json.loads(capsys.readouterr().out)


def test_the_right_teacher_agrees_by_default_and_by_name(place, made, capsys):
    path, sampler = made
    for more in ([], ["--teacher", place / "teacher", "--dtype", "float32", "--device", "cpu", "--batch-size", "1"]):
        code, result = verify(capsys, path, *more)
        assert (code, result["clean"], result["findings"]) == (0, True, [])
        # batches of other sizes move float32 logits in their last bits
        assert result["rescore"]["identical_share"] > 0.99
        assert result["rescore"]["disagreeing_share"] == 0
        assert result["rescore"]["differing_fields"] == {}
        if sampler in ("threshold", "random-sampling"):
            assert abs(result["rescore"]["z"]) < 4.5  # a chance of 7e-6 when the seed was chosen


def test_another_revision_is_found(place, made, capsys):
    path, sampler = made
    code, result = verify(capsys, path, "--teacher", place / "revision")
    assert code == 1
    assert [finding["kind"] for finding in result["findings"]] == ["teacher-disagrees"]
    assert "teacher.weights_sha256" in result["rescore"]["differing_fields"]
    if sampler in ("threshold", "random-sampling"):
        assert result["rescore"]["z"] < -20
        assert result["rescore"]["chance"] < 1e-9
    else:
        assert result["rescore"]["disagreeing_share"] > 0.9


def test_another_tokenizer_of_the_same_size_is_found(place, made, capsys):
    code, result = verify(capsys, made[0], "--teacher", place / "tokenizer")
    assert code == 1
    assert [finding["where"] for finding in result["findings"]] == ["tokenizer_sha256"]


def test_a_padded_vocabulary_is_found(place, made, capsys):
    code, result = verify(capsys, made[0], "--teacher", place / "padded")
    assert code == 1
    assert [finding["where"] for finding in result["findings"]] == ["vocab_size"]
    assert f"{PADDED_WIDTH} columns" in result["findings"][0]["message"]


def reordered(place):
    file = place / "reordered.jsonl"
    lines = (place / "data.jsonl").read_text().splitlines(keepends=True)
    file.write_text("".join([lines[1], lines[0], *lines[2:]]))
    return file


#: what is asked for on resume, and the fields that the refusal must name
RESUMED = {
    "another revision": ({"teacher": "revision"}, [], ["teacher.weights_sha256"]),
    "another tokenizer": ({"teacher": "tokenizer"}, [], ["tokenizer_sha256"]),
    "a padded vocabulary": ({"teacher": "padded"}, [], ["vocab_size", "teacher.logits_width"]),
    "another seed": ({}, ["--seed", "1"], ["seed"]),
    "another packing length": ({}, ["--seq-len", "32"], ["packing.seq_len"]),
    "a reordered data file": ({"data": reordered}, [], ["data.0.sha256", "plan.tokens_sha256"]),
    "half precision": ({}, ["--dtype", "bfloat16"], ["teacher.dtype", "teacher.weights_sha256"]),
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_resume_that_does_not_belong_is_refused_by_field(place, capsys, name):
    path = place / "store-to-resume"
    if not path.exists():
        assert build(place, path, "threshold") == 0
    change, options, fields = RESUMED[name]
    change = {key: value(place) if callable(value) else value for key, value in change.items()}
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert build(place, path, "threshold", *options, "--resume", **change) == 2
    message = capsys.readouterr().err
    assert "StoreError[settings-differ]" in message
    for field in fields:
        assert f"{field}: the store has" in message
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_what_was_appended_is_scored_too(place, tmp_path):
    path = tmp_path / "s"
    assert build(place, path, "threshold", "--limit-tokens", "200") == 0
    (tmp_path / "more.jsonl").write_text(json.dumps({"text": "and the cow jumps over the moon " * 20}) + "\n")
    store = append_store(path, data=[tmp_path / "more.jsonl"], quiet=True)
    assert len(store.generations) == 2
    result = rescore_store(path, 1.0, quiet=True)
    assert result.findings == []
    assert result.to_dict()["identical_share"] > 0.99
    assert [score.sequence for score in result.scores] == list(range(len(store)))


def test_a_damaged_store_is_not_scored(place, tmp_path, capsys):
    assert build(place, tmp_path / "s", "top-k") == 0
    shard = tmp_path / "s" / "sequences" / "c" / "0"
    data = bytearray(shard.read_bytes())
    data[50] ^= 1
    shard.write_bytes(data)
    code, result = verify(capsys, tmp_path / "s")
    assert code == 1
    assert result["rescore"] is None
    assert run(["verify", str(tmp_path / "s"), "--rescore", "0.5"]) == 1
    assert "was not run, as the store is damaged" in capsys.readouterr().out


def test_people_get_a_sentence(made, place, capsys):
    path, _ = made
    assert run(["verify", str(path), "--rescore", "0.1"]) == 0
    assert "the store agrees with this teacher." in capsys.readouterr().out
    assert run(["verify", str(path), "--rescore", "0.1", "--teacher", str(place / "revision")]) == 1
    assert "does not agree with the store" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher", "x"], "runs only with --rescore"),
        (["--rescore", "0"], "0.0 is not in the range"),
        (["--rescore", "1.5"], "1.5 is not in the range"),
        (["--rescore", "1", "--teacher", "no/such/teacher/here"], "there is no teacher at"),
    ],
)
def test_what_cannot_be_asked_is_refused(made, arguments, message, capsys):
    assert run(["verify", str(made[0]), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_off_by_one_is_found_in_a_store_made_sequence_by_sequence(place, tmp_path, capsys):
    from logitstore.samplers import Threshold
    from logitstore.store import create_store
    from logitstore.teachers import load_teacher

    teacher, sampler = load_teacher(place / "teacher"), Threshold(8)
    for name, shift in (("right", 0), ("late", 1), ("early", -1)):
        with create_store(tmp_path / name, vocab_size=WIDTH, sampler=sampler, seed=0) as writer:
            for index in range(12):
                tokens = torch.arange(64).mul(index + 3).remainder(TOKENIZER_SIZE).numpy()
                logits = torch.cat([block for _, _, block in teacher.logit_blocks([tokens])])
                writer.append(tokens, sampler(logits.roll(shift, 0), index=index))
        code, result = verify(capsys, tmp_path / name, "--teacher", place / "teacher")
        assert code == (shift != 0)
        assert (abs(result["rescore"]["z"]) > 20) == (shift != 0)
