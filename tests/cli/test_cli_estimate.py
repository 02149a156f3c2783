import json
import signal
import tempfile

import pytest

from logitstore.build.estimate import SAMPLERS
from logitstore.cli.main import run
from tests.support.tiny_models import make_tiny_teacher, make_tiny_tokenizer


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    pytest.importorskip("transformers")
    return make_tiny_teacher(tmp_path_factory.mktemp("estimate") / "teacher")


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary folders go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def arguments(tmp_path, teacher):
    (tmp_path / "a.txt").write_text("the river runs to the sea and the wind moves the trees. " * 40)
    data = ["--data", str(tmp_path / "a.txt"), "--seq-len", "32", "--positions", "64"]
    return ["estimate", "--teacher", str(teacher), *data]


def test_the_table_has_a_row_for_each_sampler_and_ends_with_a_recommendation(arguments, capsys, temporary):
    assert run(arguments) == 0
    captured = capsys.readouterr()
    assert "probing: 64/64 positions" in captured.err
    lines = captured.out.splitlines()
    assert lines[0].startswith("Probed 64 positions in 2 sequences, evenly spread: one in ")
    assert "counted: all of the data was tokenised" in lines[1]
    table = lines[3 : lines.index("", 3)]
    assert [line.split()[0] for line in table[2:]] == [sampler.name for sampler in SAMPLERS]
    (reference,) = [line for line in table if line.startswith("random-sampling  n = 50 ")]
    assert reference.split()[-2:] == ["-", "1.00"]
    (biased,) = [line for line in table if line.startswith("top-p")]
    assert "p = 0.95, max-k = 100" in biased
    assert biased.split()[-1] == "-"
    assert 0 < float(biased.split()[-2]) <= 1
    assert lines[-1].startswith("Take threshold with ")
    assert list(temporary.iterdir()) == []


def test_json_has_the_same_for_programs(arguments, capsys):
    assert run([*arguments, "--json", "--quiet", "--seed", "3", "--teacher-temperature", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    found = json.loads(captured.out)
    assert [row["sampler"] for row in found["samplers"]] == [sampler.to_dict() for sampler in SAMPLERS]
    assert (found["probed_positions"], found["counted"]) == (64, True)
    for row in found["samplers"]:
        assert row["bytes_per_position"] == pytest.approx(sum(row["bytes_per_position_split"].values()))
        assert row["total_bytes"] == pytest.approx(row["bytes_per_position"] * found["corpus_tokens"], abs=1)
        assert (row["kept_mass"] is None) != (row["relative_variance"] is None)
    assert found["recommended"]["name"] == "threshold"


def test_an_extrapolated_corpus_says_so(arguments, capsys, monkeypatch):
    from logitstore.build import corpus_sample

    monkeypatch.setattr(corpus_sample, "_COUNTED_BYTES", 100)
    assert run([*arguments, "--quiet"]) == 0
    size = 40 * len("the river runs to the sea and the wind moves the trees. ")
    assert f"(extrapolated by bytes: {size:,} of {size:,} were tokenised, evenly spread)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "code", "message"),
    [
        (["--teacher", "/nowhere/at/all"], 2, "TeacherError[teacher-missing]"),
        (["--data", "/nowhere.txt"], 2, "InvalidInput[data-missing]"),
        (["--seq-len", "65"], 2, "TeacherError[context-too-short]"),
        (["--teacher-temperature", "0"], 2, "InvalidInput[invalid-input]"),
        (["--device", "nothing"], 2, "InvalidInput[invalid-input]"),
        (["--positions", "0"], 2, "Invalid value for '--positions'"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_paragraph(arguments, capsys, temporary, changed, code, message):
    assert run([*arguments, "--quiet", *changed]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert list(temporary.iterdir()) == []


def test_ctrl_c_exits_130_and_leaves_nothing(arguments, capsys, temporary, monkeypatch):
    from logitstore.build import teacher_source

    class Interrupted:
        bos_id, eod_id, size, sha256 = 0, 1, 300, "tiny"

        def encode(self, text):
            assert len(list(temporary.iterdir())) == 1
            signal.raise_signal(signal.SIGINT)
            return make_tiny_tokenizer().encode(text)

    monkeypatch.setattr(teacher_source, "load_tokenizer", lambda *arguments, **options: Interrupted())
    assert run(arguments) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert list(temporary.iterdir()) == []
