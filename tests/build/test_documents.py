import gc
import hashlib
import json
import os

import pytest

from logitstore.build.documents import DataFile, DocumentReader, find_data_files
from tests.build.data_files import names, read, refusal, write, write_parquet


@pytest.fixture
def corpus(tmp_path):
    for name in ("b.txt", "a/z.jsonl", "a/y/x.PARQUET", "a-b/c.Txt", "a/notes.md", ".hidden.txt", ".git/d.txt"):
        write(tmp_path / name, "x")
    return tmp_path


def test_directory_gives_known_suffixes_in_path_order(corpus):
    assert names(find_data_files([corpus]), corpus) == ["a/y/x.PARQUET", "a/z.jsonl", "a-b/c.Txt", "b.txt"]


def test_order_is_that_of_paths_not_of_arguments(corpus):
    files = find_data_files([corpus / "b.txt", str(corpus / "a"), corpus / "a-b" / "c.Txt"])
    assert names(files, corpus) == ["a/y/x.PARQUET", "a/z.jsonl", "a-b/c.Txt", "b.txt"]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*.txt", ["b.txt"]),
        ("**/*.[jT]*", ["a/z.jsonl", "a-b/c.Txt"]),
        ("a/?.jsonl", ["a/z.jsonl"]),
        ("a/*", ["a/y/x.PARQUET", "a/z.jsonl"]),
        ("**", ["a/y/x.PARQUET", "a/z.jsonl", "a-b/c.Txt", "b.txt"]),
        (".*/*.txt", [".git/d.txt"]),
    ],
)
def test_globs_match_files_and_directories(corpus, pattern, wanted):
    assert names(find_data_files([corpus / pattern]), corpus) == wanted


def test_hidden_file_counts_when_named(corpus):
    assert names(find_data_files([corpus / ".hidden.txt"]), corpus) == [".hidden.txt"]


def test_existing_name_with_glob_characters_is_that_file(tmp_path):
    file = write(tmp_path / "a[1].txt", "x")
    write(tmp_path / "a1.txt", "x")
    assert find_data_files([file]) == [file]


def test_file_reached_twice_counts_once_under_its_first_name(corpus):
    (corpus / "a" / "link.txt").symlink_to(corpus / "b.txt")
    files = find_data_files([corpus, corpus / "b.txt", corpus / "*.txt", corpus / "a" / ".." / "b.txt"])
    assert names(files, corpus) == ["a/../b.txt", "a/y/x.PARQUET", "a/z.jsonl", "a-b/c.Txt"]
    assert names(find_data_files([corpus]), corpus) == ["a/link.txt", "a/y/x.PARQUET", "a/z.jsonl", "a-b/c.Txt"]


def test_links_to_directories_are_followed_and_circles_end(corpus):
    (corpus / "a" / "circle").symlink_to(corpus)
    (corpus / "a" / "y" / "elsewhere").symlink_to(write(corpus / ".store" / "s.txt", "x").parent)
    files = find_data_files([corpus / "a"])
    assert len(files) == 5
    assert "a/y/elsewhere/s.txt" in names(files, corpus)


@pytest.mark.parametrize("name", ["gone.txt", "gone", "b.txt/c.txt", "a\0b.txt"])
def test_missing_path_is_refused(corpus, name):
    refusal(lambda: find_data_files([corpus / "b.txt", corpus / name]), "data-missing", "no such file or directory")


def test_empty_path_is_not_the_current_directory(corpus, monkeypatch):
    monkeypatch.chdir(corpus)
    refusal(lambda: find_data_files([""]), "data-missing", "''")


@pytest.mark.parametrize("pattern", ["*.jsonl", "a/*.md", "gone/**"])
def test_glob_without_data_files_is_refused(corpus, pattern):
    refusal(lambda: find_data_files([corpus / pattern]), "data-missing", pattern, ".txt, .jsonl or .parquet", "pattern")


def test_directory_without_data_files_is_refused(tmp_path):
    write(tmp_path / "d" / "notes.md", "x")
    refusal(lambda: find_data_files([tmp_path / "d"]), "data-missing", ".txt, .jsonl or .parquet", "directory")


def test_link_to_nothing_is_refused_not_skipped(corpus):
    (corpus / "a" / "broken.jsonl").symlink_to(corpus / "gone.jsonl")
    refusal(lambda: find_data_files([corpus]), "data-missing", "broken.jsonl")
    refusal(lambda: find_data_files([corpus / "a" / "*.jsonl"]), "data-missing", "broken.jsonl")


@pytest.mark.parametrize(("name", "found"), [("notes.md", "'.md'"), ("README", "no suffix"), ("a.jsonl.gz", "'.gz'")])
def test_named_file_of_unknown_suffix_is_refused(tmp_path, name, found):
    file = write(tmp_path / name, "x")
    refusal(lambda: find_data_files([file]), "data-format", found, ".txt, .jsonl or .parquet")


def test_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "p.txt")
    refusal(lambda: find_data_files([tmp_path / "p.txt"]), "data-format", "neither a file nor a directory")


def test_path_the_system_refuses_is_unreadable(tmp_path):
    (tmp_path / "self.txt").symlink_to(tmp_path / "self.txt")
    refusal(lambda: find_data_files([tmp_path / "self.txt"]), "data-unreadable", "self.txt")


def test_directory_that_cannot_be_listed_is_refused_not_skipped(corpus, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("a-b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    refusal(lambda: find_data_files([corpus]), "data-unreadable", "a-b", "Permission denied")


def test_no_paths_are_refused():
    refusal(lambda: find_data_files([]), "data-missing")


def test_single_path_in_place_of_a_list_is_refused(corpus):
    refusal(lambda: find_data_files(str(corpus)), "invalid-input", "a list of paths was wanted")


def test_files_are_read_in_order_and_numbered(tmp_path):
    files = [
        write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "b"}'),
        write_parquet(tmp_path / "b.Parquet", ["c"]),
        write(tmp_path / "c.TXT", "d"),
    ]
    documents, records = read(*files)
    assert [(document.file_index, document.text) for document in documents] == [(0, "a"), (0, "b"), (1, "c"), (2, "d")]
    assert [record.name for record in records] == ["a.jsonl", "b.Parquet", "c.TXT"]


def test_records_hold_size_and_hash_of_the_bytes_on_disk(tmp_path):
    files = [
        write(tmp_path / "a.jsonl", '\ufeff{"text": "a"}\r\n\n{"text": ""}\n'),
        write_parquet(tmp_path / "b.parquet", ["c"] * 200),
        write(tmp_path / "c.txt", "\ufeffd\r\n"),
    ]
    _, records = read(*files)
    for file, record, counts in zip(files, records, [(1, 1), (200, 0), (1, 0)], strict=True):
        content = file.read_bytes()
        assert record == DataFile(file.name, len(content), hashlib.sha256(content).hexdigest(), *counts)
    assert records[0].to_dict().keys() == {"name", "bytes", "sha256", "documents", "empty_documents"}


def test_record_comes_when_its_file_is_finished(tmp_path):
    reader = DocumentReader([write(tmp_path / "a.txt", "a"), write(tmp_path / "b.txt", "b")])
    documents = iter(reader)
    next(documents)
    assert reader.files == []
    next(documents)
    assert [record.name for record in reader.files] == [str(tmp_path / "a.txt")]
    assert list(documents) == []
    assert len(reader.files) == 2
    assert len(list(reader)) == len(reader.files) == 2


def test_finish_records_the_file_given_up_in_with_its_whole_hash(tmp_path):
    lines = "".join(json.dumps({"text": f"line {i}"}) + "\n" for i in range(5000))
    files = [write(tmp_path / name, lines) for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
    reader = DocumentReader(files)
    for count, _ in enumerate(reader, start=1):
        if count == 5003:
            break
    reader.finish()
    reader.finish()
    digest = hashlib.sha256(lines.encode()).hexdigest()
    assert [(record.documents, record.bytes, record.sha256) for record in reader.files] == [
        (5000, len(lines), digest),
        (3, len(lines), digest),
    ]


def test_finish_changes_nothing_after_a_whole_pass(tmp_path):
    reader = DocumentReader([write(tmp_path / "a.txt", "a")])
    assert len(list(reader)) == 1
    reader.finish()
    assert len(reader.files) == 1


def test_empty_file_after_others_is_refused(tmp_path):
    files = [write(tmp_path / "a.txt", "a"), write(tmp_path / "b.txt", "")]
    refusal(lambda: read(*files), "data-empty", "b.txt")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_file_gone_since_it_was_listed_is_refused(tmp_path, name):
    refusal(lambda: read(tmp_path / name), "data-missing", name)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_file_the_system_refuses_is_unreadable(tmp_path, name):
    (tmp_path / name).mkdir()
    refusal(lambda: read(tmp_path / name), "data-unreadable", f"{name} cannot be read", "Is a directory")


def test_plain_text_is_refused_at_once_where_token_ids_are_wanted(tmp_path):
    files = [tmp_path / "a.jsonl", tmp_path / "b.txt"]
    refusal(lambda: DocumentReader(files, tokens_field="ids"), "data-format", "b.txt", "'ids'")


def test_unknown_suffix_is_refused_at_once(tmp_path):
    refusal(lambda: DocumentReader([tmp_path / "a.csv"]), "data-format", "'.csv'")


def test_giving_up_closes_the_file(tmp_path):
    documents = iter(DocumentReader([write(tmp_path / "a.jsonl", '{"text": "a"}\n' * 3)]))
    next(documents)
    del documents
    # an open file would warn here, and warnings are errors
    gc.collect()
