import json

import numpy as np
import pytest
import torch

from logitstore.build import corpus_sample
from tests.build.toy_estimate import ByteTokenizer, CountingTeacher, run


@pytest.fixture
def large(monkeypatch):
    """Make small data count as large."""
    monkeypatch.setattr(corpus_sample, "_COUNTED_BYTES", 1000)
    monkeypatch.setattr(corpus_sample, "_COUNTED_TOKENS", 1000)
    monkeypatch.setattr(corpus_sample, "_CHUNK_CHARACTERS", 500)
    monkeypatch.setattr(corpus_sample, "_MOST_CHUNKS", 16)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_a_large_corpus_is_extrapolated_from_an_even_sample_of_its_text(tmp_path, monkeypatch, pack, suffix):
    path = tmp_path / f"a{suffix}"
    rng = np.random.default_rng(0)
    documents = ["é" * int(length) + " word" * int(length) for length in rng.integers(1, 60, 300)]
    lines = documents if suffix == ".txt" else [json.dumps({"text": text}) for text in documents]
    path.write_text("\n".join(lines))
    encoded = []

    class Counting(ByteTokenizer):
        def encode(self, text):
            encoded.append(len(text.encode()))
            return super().encode(text)

    found = run(path, pack=pack, tokenizer=Counting())
    size = path.stat().st_size if suffix == ".txt" else sum(len(text.encode()) for text in documents)
    assert not found.counted
    assert found.data_bytes == size
    assert found.tokenised_bytes == sum(encoded)
    assert 8 * 400 < found.tokenised_bytes < 17 * 1000
    monkeypatch.undo()
    exact = run(path, pack=pack)
    assert exact.counted
    assert found.corpus_tokens == pytest.approx(exact.corpus_tokens, rel=0.03)
    assert found.corpus_sequences == pytest.approx(exact.corpus_sequences, rel=0.05 if pack else 0.15)


@pytest.mark.usefixtures("large")
def test_the_sample_of_a_large_corpus_reaches_its_end(tmp_path):
    (tmp_path / "a.txt").write_text("a " * 20_000)
    (tmp_path / "b.txt").write_text("b " * 20_000)
    teacher = CountingTeacher()
    run(tmp_path / "a.txt", tmp_path / "b.txt", positions=2000, teacher=teacher)
    tokens = torch.cat(teacher.probed)
    counts = [int((tokens == ord(letter) + 3).sum()) for letter in "ab"]
    assert min(counts) > 0.8 * max(counts)


@pytest.mark.usefixtures("large")
def test_a_limit_bounds_a_large_corpus_and_a_small_one_is_counted(tmp_path):
    (tmp_path / "a.txt").write_text("some words " * 5000)
    assert not (found := run(tmp_path / "a.txt", limit_tokens=20_000)).counted
    assert found.corpus_tokens == 20_000
    assert (found := run(tmp_path / "a.txt", limit_tokens=900)).counted
    assert found.corpus_tokens == 900


@pytest.mark.usefixtures("large")
def test_token_ids_of_a_large_corpus_are_extrapolated_too(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"ids": [7] * 700}) for _ in range(60)))
    found = run(tmp_path / "a.jsonl", tokens_field="ids", tokenizer=None)
    assert found.data_bytes == 4 * 60 * 700
    assert found.corpus_tokens == 60 * 700
    assert not found.counted
