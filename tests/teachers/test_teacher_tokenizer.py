"""The tokenizer: what build needs of it, and a hash that tells tokenizers apart."""

import json

import pytest

from logitstore.errors import TeacherError
from logitstore.teachers import hash_tokenizer, load_tokenizer
from tests.support.tiny_models import ARCHITECTURES, make_tiny_teacher, make_tiny_tokenizer

TEXT = "the quick brown fox, naïve 漢字 🙂\n\tand so on"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_teacher(tmp_path_factory.mktemp("tokenizer"))


def test_encoding_adds_nothing_and_decodes_back(folder):
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT
    assert not {tokenizer.bos_id, tokenizer.eod_id} & set(ids)
    assert max(ids) < tokenizer.size
    assert tokenizer.encode("") == []


def test_ids_and_size_are_the_tokenizers(folder):
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_id, tokenizer.eod_id, tokenizer.size) == (0, 1, 300)


def test_a_text_longer_than_the_context_is_encoded_whole(folder):
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode(TEXT * 100)) == TEXT * 100


def test_token_strings_read_as_text(folder):
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode("the quick sea")
    assert "".join(tokenizer.token_strings(ids)) == "the quick sea"
    assert tokenizer.token_strings([0, 299 + 1, -1]) == ["<bos>", "<id 300>", "<id -1>"]


def test_parts_of_a_character_have_a_name(folder):
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode("漢")
    assert len(ids) > 1
    assert all(len(text) == 1 and text != "\ufffd" for text in tokenizer.token_strings(ids))


def test_the_hash_survives_a_reload_and_calls(folder):
    first, second = load_tokenizer(folder), load_tokenizer(folder)
    assert first.sha256 == second.sha256
    first.tokenizer("a call that leaves truncation behind", truncation=True, max_length=2)
    assert hash_tokenizer(first.tokenizer) == second.sha256


def test_the_hash_tells_tokenizers_apart():
    base = hash_tokenizer(make_tiny_tokenizer(300))
    assert base == hash_tokenizer(make_tiny_tokenizer(300))
    other_eos = make_tiny_tokenizer(300)
    other_eos.eos_token = "<bos>"
    other_split = make_tiny_tokenizer(300)
    content = json.loads(other_split.backend_tokenizer.to_str())
    content["pre_tokenizer"]["add_prefix_space"] = True
    other_split._tokenizer = type(other_split.backend_tokenizer).from_str(json.dumps(content))
    added = make_tiny_tokenizer(300)
    added.add_tokens(["teacher's own"])
    found = {base, *map(hash_tokenizer, (make_tiny_tokenizer(299), other_eos, other_split, added))}
    assert len(found) == 5


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_checkpoint_without_tokenizer_has_none(tmp_path, architecture):
    make_tiny_teacher(tmp_path, architecture=architecture, tokenizer_size=None)
    assert load_tokenizer(tmp_path) is None


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2", "gemma2"])
def test_a_tokenizer_of_special_tokens_only_is_none(tmp_path, architecture):
    # for these, transformers makes an empty tokenizer of the config alone
    make_tiny_teacher(tmp_path, architecture=architecture, tokenizer_size=None)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert load_tokenizer(tmp_path) is None


def test_a_damaged_tokenizer_is_unreadable(tmp_path):
    make_tiny_teacher(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model":')
    with pytest.raises(TeacherError) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.kind == "teacher-unreadable"
    assert "tokenizer" in str(caught.value)
