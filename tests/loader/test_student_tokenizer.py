"""`check_student` with tokenizers of Hugging Face."""

from __future__ import annotations

import pytest

from logitstore.errors import StoreError
from logitstore.loader import LogitDataset
from logitstore.teachers.tokenizer import hash_tokenizer
from tests.loader.small_stores import VOCAB_SIZE, make_store

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")


def tokenizer_of(words):
    vocabulary = {word: index for index, word in enumerate(["<unk>", "</s>", *words])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")


@pytest.fixture
def dataset(tmp_path):
    made_with = tokenizer_of(["red", "green", "blue"])
    return LogitDataset(make_store(tmp_path / "store", [3], tokenizer_sha256=hash_tokenizer(made_with)))


def test_a_student_with_the_stores_tokenizer_passes(dataset):
    dataset.check_student(VOCAB_SIZE, tokenizer_of(["red", "green", "blue"]))


def test_a_student_with_another_tokenizer_is_refused(dataset):
    with pytest.raises(StoreError, match="same ids would stand for other text") as caught:
        dataset.check_student(VOCAB_SIZE, tokenizer_of(["green", "red", "blue"]))
    assert caught.value.kind == "alignment-mismatch"


def test_a_tokenizer_cannot_be_compared_with_a_store_that_names_none(tmp_path):
    dataset = LogitDataset(make_store(tmp_path / "nameless", [3]))
    with pytest.raises(StoreError, match="does not say which tokenizer") as caught:
        dataset.check_student(VOCAB_SIZE, tokenizer_of(["red"]))
    assert caught.value.kind == "alignment-mismatch"
