import random

import pyarrow as pa
import pytest
from pyarrow import parquet

from logitstore.errors import InvalidInput
from tests.build.data_files import read, refusal, texts, token_lists, write, write_parquet


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_texts_come_in_row_order(tmp_path, type_):
    values = [f"text {row % 90}" for row in range(300)]
    file = write_parquet(tmp_path / "a.parquet", values, type_=type_, row_group_size=70)
    documents, _ = read(file)
    assert [document.text for document in documents] == values
    assert [document.where for document in documents][::299] == ["a.parquet row 0", "a.parquet row 299"]


@pytest.mark.parametrize(
    "type_",
    [
        pa.list_(pa.int32()),
        pa.large_list(pa.int64()),
        pa.list_(pa.uint16()),
        pa.list_(pa.uint64()),
        pa.list_(pa.int8(), 3),
    ],
)
def test_parquet_token_ids_become_int32(tmp_path, type_):
    values = [[row % 100, 2, 3] for row in range(200)]
    assert token_lists(write_parquet(tmp_path / "a.parquet", values, "ids", type_)) == values


def test_parquet_rows_keep_their_numbers_where_some_are_empty(tmp_path):
    documents, (record,) = read(write_parquet(tmp_path / "a.parquet", ["", "a", " ", "b"]))
    assert [document.where for document in documents] == ["a.parquet row 1", "a.parquet row 3"]
    assert (record.documents, record.empty_documents) == (2, 2)


def test_column_is_taken_by_its_whole_name(tmp_path):
    table = pa.table(
        {"body": [{"more": "of a field"}], "body.more": ["of the column"], "text.more": ["x"], "text": ["y"]}
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet", text_field="body.more") == ["of the column"]
    assert texts(tmp_path / "a.parquet") == ["y"]


def test_missing_column_is_refused_naming_those_there(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", ["a"], "content")
    refusal(lambda: read(file), "data-field", "a.parquet has no field 'text'", "'content', 'other'")


def test_column_there_twice_is_refused(tmp_path):
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    parquet.write_table(table, tmp_path / "a.parquet")
    refusal(lambda: read(tmp_path / "a.parquet"), "data-field", "'text' is there 2 times")


@pytest.mark.parametrize(
    ("values", "found"), [([1], "int64"), ([["a"]], "list<"), ([b"a"], "binary"), ([None], "null")]
)
def test_column_of_another_type_is_refused(tmp_path, values, found):
    file = write_parquet(tmp_path / "a.parquet", values)
    refusal(lambda: read(file), "data-field", f"a.parquet: field 'text' is of type {found}", "a string")


@pytest.mark.parametrize(
    ("values", "found"), [([1], "int64"), ([[1.0]], "double"), (["1 2"], "string"), ([[True]], "bool")]
)
def test_tokens_column_of_another_type_is_refused(tmp_path, values, found):
    file = write_parquet(tmp_path / "a.parquet", values, "ids")
    refusal(lambda: token_lists(file), "data-field", "field 'ids' is of type", found, "a list of token ids")


def test_null_row_is_refused_with_its_number(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", ["a"] * 100 + [None])
    refusal(lambda: read(file), "data-field", "a.parquet row 100: field 'text' is null")
    file = write_parquet(tmp_path / "b.parquet", [[1], None], "ids")
    refusal(lambda: token_lists(file), "data-field", "b.parquet row 1: field 'ids' is null")


@pytest.mark.parametrize(
    ("token", "type_"), [(None, pa.int32()), (2**31, pa.uint32()), (-(2**32), pa.int64()), (2**63, pa.uint64())]
)
def test_parquet_token_that_is_no_int32_is_refused_with_its_index(tmp_path, token, type_):
    file = write_parquet(tmp_path / "a.parquet", [[1, 2], [3, 4, token, token]], "ids", pa.list_(type_))
    refusal(lambda: token_lists(file), "data-field", f"a.parquet row 1: field 'ids' has {token} at index 2")


def test_parquet_text_that_is_not_utf8_is_refused(tmp_path):
    raw = pa.array([b"a", b"b\xff"])
    bad = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    parquet.write_table(pa.table({"text": bad}), tmp_path / "a.parquet")
    refusal(lambda: read(tmp_path / "a.parquet"), "data-encoding", "a.parquet row 1 is not UTF-8 at byte 1")


@pytest.mark.parametrize("rows", [[], [""]])
def test_parquet_without_any_document_is_refused(tmp_path, rows):
    file = write_parquet(tmp_path / "a.parquet", rows, type_=pa.string())
    refusal(lambda: read(file), "data-empty", "a.parquet is empty")


@pytest.mark.parametrize("keep", [0, 3, 200, -1])
def test_cut_parquet_file_is_unreadable(tmp_path, keep):
    whole = write_parquet(tmp_path / "a.parquet", ["some text"] * 50).read_bytes()
    file = write(tmp_path / "b.parquet", whole[:keep])
    refusal(lambda: read(file), "data-unreadable", "b.parquet cannot be read")


def test_damaged_parquet_pages_are_unreadable_where_they_carry_checksums(tmp_path):
    file = write_parquet(
        tmp_path / "a.parquet",
        ["a needle in hay"],
        write_page_checksum=True,
        write_statistics=False,
        use_dictionary=False,
        compression="none",
    )
    file.write_bytes(file.read_bytes().replace(b"needle", b"noodle"))
    refusal(lambda: read(file), "data-unreadable", "a.parquet cannot be read")


@pytest.mark.parametrize("tokens", [False, True])
def test_damaged_parquet_never_fails_in_an_unknown_way(tmp_path, tokens):
    column, values = ("ids", [[1, 2, 3]] * 20) if tokens else ("text", ["some text", "more"] * 10)
    whole = write_parquet(tmp_path / "a.parquet", values, column).read_bytes()
    chance = random.Random(11)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        file = write(tmp_path / "b.parquet", bytes(damaged))
        try:
            token_lists(file) if tokens else texts(file)
        except InvalidInput:
            refused += 1
    assert refused > 30


def test_damaged_column_name_is_unreadable(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", ["a"], store_schema=False)
    file.write_bytes(file.read_bytes().replace(b"text", b"\xffext"))
    refusal(lambda: read(file), "data-unreadable", "a.parquet cannot be read")
