import numpy as np
import pytest

from logitstore.build.documents import Document
from logitstore.build.tokenize import encode_documents
from logitstore.errors import InvalidInput

VOCAB, BOS = 300, 2


def text(content, where="a.txt"):
    return Document(0, where, content, None)


def ids(*tokens, where="a.jsonl:1"):
    return Document(0, where, None, np.array(tokens, dtype=np.int32))


def to_bytes(content):
    return list(content.encode())


def encoded(*documents, **options):
    options = {"encode": to_bytes, "vocab_size": VOCAB, "bos_id": BOS} | options
    return list(encode_documents(documents, **options))


def test_texts_become_int32_ids_and_keep_their_place():
    documents = [Document(0, "a.txt", "ab", None), Document(3, "b.jsonl:7", "c", None)]
    first, second = encoded(*documents)
    assert (first.file_index, first.where, first.tokens.tolist()) == (0, "a.txt", [97, 98])
    assert (second.file_index, second.where, second.tokens.tolist()) == (3, "b.jsonl:7", [99])
    assert first.tokens.dtype == np.int32


def test_token_ids_pass_without_a_tokenizer():
    (document,) = encoded(ids(0, 5, VOCAB - 1), encode=None)
    assert document.tokens.tolist() == [0, 5, VOCAB - 1]


@pytest.mark.parametrize(("tokens", "kept"), [((BOS, 5), [5]), ((BOS, BOS, 5), [BOS, 5]), ((5, BOS), [5, BOS])])
def test_one_leading_bos_of_token_ids_is_stripped(tokens, kept):
    assert encoded(ids(*tokens))[0].tokens.tolist() == kept
    assert encoded(ids(*tokens), bos_id=None)[0].tokens.tolist() == list(tokens)


def test_bos_that_a_text_spells_is_kept():
    assert encoded(text("\x02a"))[0].tokens.tolist() == [BOS, 97]


def test_documents_without_tokens_are_skipped():
    documents = encoded(text("a"), text(""), ids(BOS), text("b"))
    assert [document.tokens.tolist() for document in documents] == [[97], [98]]


def test_data_without_any_token_is_refused():
    with pytest.raises(InvalidInput, match="no tokens") as caught:
        encoded(ids(BOS), text(""))
    assert caught.value.kind == "data-empty"


@pytest.mark.parametrize(
    ("tokens", "found"),
    [
        ((1, VOCAB, 5), rf"a.jsonl:1: token 1 of the document is id {VOCAB}, .* of {VOCAB} \(ids 0 to {VOCAB - 1}\)"),
        ((1, 2, 3, -1), "token 3 of the document is id -1"),
        ((BOS, 1, 2**31 - 1), "token 2 of the document is id 2147483647"),
    ],
)
def test_id_outside_the_vocabulary_is_refused_with_its_place(tokens, found):
    with pytest.raises(InvalidInput, match=found) as caught:
        encoded(ids(*tokens))
    assert caught.value.kind == "token-out-of-range"


@pytest.mark.parametrize("wrong", [VOCAB, -1, 2**40])
def test_id_outside_the_vocabulary_from_a_tokenizer_is_refused(wrong):
    with pytest.raises(InvalidInput, match=f"b.txt: token 1 of the document is id {wrong},") as caught:
        encoded(text("x", where="b.txt"), encode=lambda content: [7, wrong])
    assert caught.value.kind == "token-out-of-range"


def test_text_without_a_tokenizer_is_refused():
    with pytest.raises(
        InvalidInput, match=r"a.txt is text, but the teacher has no tokenizer.*--tokens-field"
    ) as caught:
        encoded(text("a"), encode=None)
    assert caught.value.kind == "no-tokenizer"


@pytest.mark.parametrize("found", [[[1, 2]], ["a"], {"input_ids": [1]}, [1.5]])
def test_tokenizer_that_gives_no_list_of_ids_is_refused(found):
    with pytest.raises(InvalidInput, match="a list of ids was wanted"):
        encoded(text("a"), encode=lambda content: found)


def test_document_with_neither_text_nor_tokens_is_refused():
    with pytest.raises(InvalidInput, match="neither text nor tokens"):
        encoded(Document(0, "a.txt", None, None))


def test_progress_tells_documents_and_tokens_so_far():
    calls = []
    encoded(text("ab"), text(""), text("cde"), progress=lambda *call: calls.append(call))
    assert calls == [(1, 2), (2, 5)]


def test_documents_are_encoded_one_at_a_time():
    seen = []

    def encode(content):
        seen.append(content)
        return [1]

    stream = encode_documents([text("a"), text("b")], encode=encode, vocab_size=VOCAB, bos_id=BOS)
    next(stream)
    assert seen == ["a"]
