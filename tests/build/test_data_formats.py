import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.build.data_files import read, refusal, texts, token_lists, write


def test_text_file_is_one_document_kept_as_it_is(tmp_path):
    content = "one\r\n\r\ntwo\u2028three \U0001f642\n"
    (document,), _ = read(write(tmp_path / "a.txt", content))
    assert (document.file_index, document.where, document.text, document.tokens) == (0, "a.txt", content, None)


def test_byte_order_mark_is_dropped_once(tmp_path):
    assert texts(write(tmp_path / "a.txt", "\ufeffa\ufeffb")) == ["a\ufeffb"]
    assert texts(write(tmp_path / "a.jsonl", '\ufeff{"text": "\ufeffa"}\n')) == ["\ufeffa"]


def test_text_that_is_not_utf8_is_refused_with_its_offset(tmp_path):
    file = write(tmp_path / "a.txt", b"ab\n\xc3\xa4\xe4b")
    refusal(lambda: read(file), "data-encoding", "a.txt", "0xe4 at offset 5 (line 2)")


@pytest.mark.parametrize("content", ["", " \r\n\t", "\ufeff", "\u2003\u3000"])
def test_empty_text_file_is_refused(tmp_path, content):
    refusal(lambda: read(write(tmp_path / "a.txt", content)), "data-empty", "a.txt is empty")


def test_json_lines_give_one_document_each_with_their_place(tmp_path):
    lines = '{"text": "a"}\r\n\r\n  \n{"id": 1, "text": "b\\r\\n"}\n{"text": "c"}'
    documents, _ = read(write(tmp_path / "a.jsonl", lines))
    assert [(document.where, document.text) for document in documents] == [
        ("a.jsonl:1", "a"),
        ("a.jsonl:4", "b\r\n"),
        ("a.jsonl:5", "c"),
    ]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r"])
def test_only_newlines_end_a_line(tmp_path, separator):
    strict = separator >= "\x80"
    line = json.dumps({"text": f"a{separator}b"}, ensure_ascii=not strict)
    between = "" if strict else "\r"
    assert texts(write(tmp_path / "a.jsonl", f"{line}{between}\n{line}")) == [f"a{separator}b"] * 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1), st.booleans())
def test_any_text_comes_back_from_json_lines(tmp_path_factory, contents, escaped):
    contents = ["first", *contents]
    lines = "\n".join(json.dumps({"text": content}, ensure_ascii=escaped) for content in contents)
    documents, (record,) = read(write(tmp_path_factory.getbasetemp() / "any.jsonl", lines))
    kept = [content for content in contents if content.strip()]
    assert [document.text for document in documents] == kept
    assert (record.documents, record.empty_documents) == (len(kept), len(contents) - len(kept))


def test_huge_line_is_one_document(tmp_path):
    content = "wörd " * 1_000_000
    assert texts(write(tmp_path / "a.jsonl", json.dumps({"text": content}))) == [content]


def test_another_text_field_can_be_named(tmp_path):
    assert texts(write(tmp_path / "a.jsonl", '{"text": 1, "body": "b"}'), text_field="body") == ["b"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"text": "a"', "delimiter"),
        ("{'text': 'a'}", "near \"{'text': 'a'}"),
        ("plain words", "near 'plain words'"),
        ('{"text": "a"} {"text": "b"}', "Extra data at character 14"),
        ("[" * 100_000, "recursion"),
        ('{"text": ' + "1" * 5000 + "}", 'near \'{"text": 111'),
        ('{"text": "a\x00"}', "control character"),
    ],
)
def test_line_that_is_not_json_is_refused_with_its_number(tmp_path, line, found):
    file = write(tmp_path / "a.jsonl", f'{{"text": "fine"}}\n\n{line}\n')
    text = refusal(lambda: read(file), "data-json", "a.jsonl:3 is not JSON", found)
    assert len(text) < 300


@pytest.mark.parametrize(("line", "found"), [("[1, 2]", "a list of 2"), ('"text"', "str 'text'"), ("null", "null")])
def test_line_that_is_no_object_is_refused(tmp_path, line, found):
    refusal(lambda: read(write(tmp_path / "a.jsonl", line)), "data-field", f"a.jsonl:1 is {found}", "'text'")


def test_missing_field_is_refused_naming_those_there(tmp_path):
    file = write(tmp_path / "a.jsonl", '{"text": "a"}\n{"content": "b", "id": 2}')
    refusal(lambda: read(file), "data-field", "a.jsonl:2 has no field 'text'", "'content', 'id'", "text field")
    refusal(lambda: read(write(tmp_path / "b.jsonl", "{}")), "data-field", "no fields at all")
    many = write(tmp_path / "c.jsonl", json.dumps({f"field{i}": i for i in range(1000)}))
    assert len(refusal(lambda: read(many), "data-field", "'field0', 'field1'", ", ...")) < 300


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, "null"),
        (1.5, "float 1.5"),
        (["a"], "a list of 1"),
        ({"a": 1, "b": 2}, "an object of 2"),
        (10**60, "int 100000000000000000000000..."),
    ],
)
def test_field_that_is_no_string_is_refused(tmp_path, value, found):
    file = write(tmp_path / "a.jsonl", json.dumps({"text": value}))
    refusal(lambda: read(file), "data-field", f"a.jsonl:1: field 'text' is {found};", "a string")


def test_line_that_is_not_utf8_is_refused(tmp_path):
    file = write(tmp_path / "a.jsonl", b'{"text": "a"}\n{"text": "\xff"}')
    refusal(lambda: read(file), "data-encoding", "a.jsonl:2 is not UTF-8: byte 0xff at offset 10 is")


def test_half_a_surrogate_pair_is_refused(tmp_path):
    file = write(tmp_path / "a.jsonl", '{"text": "\\ud83d\\ude42"}\n{"text": "ab\\ud83d"}')
    refusal(lambda: read(file), "data-encoding", "a.jsonl:2", "'\\ud83d', at character 2")


def test_json_token_ids_become_int32(tmp_path):
    file = write(tmp_path / "a.jsonl", '{"ids": [1, -2147483648, 2147483647]}\n{"ids": []}\n{"ids": [0]}')
    assert token_lists(file) == [[1, -(2**31), 2**31 - 1], [0]]


@pytest.mark.parametrize(
    ("token", "shown"),
    [("true", "True"), ("1.0", "1.0"), ('"3"', "'3'"), ("null", "None"), ("[4]", "[4]")]
    + [(str(number), str(number)) for number in (2**31, -(2**31) - 1, 2**70)],
)
def test_json_token_that_is_no_int32_is_refused_with_its_index(tmp_path, token, shown):
    file = write(tmp_path / "a.jsonl", f'{{"ids": [5, 6, {token}]}}')
    refusal(lambda: token_lists(file), "data-field", f"a.jsonl:1: field 'ids' has {shown} at index 2")


def test_tokens_field_that_is_no_list_is_refused(tmp_path):
    file = write(tmp_path / "a.jsonl", '{"ids": "1 2 3"}')
    refusal(lambda: token_lists(file), "data-field", "field 'ids' is str '1 2 3'", "a list of token ids")
    refusal(lambda: token_lists(file, field="tokens"), "data-field", "'ids'", "as the tokens field")


@pytest.mark.parametrize("content", ["", "\n \n", '{"text": ""}\n{"text": " \\n"}'])
def test_json_lines_without_any_document_are_refused(tmp_path, content):
    refusal(lambda: read(write(tmp_path / "a.jsonl", content)), "data-empty", "a.jsonl is empty")
