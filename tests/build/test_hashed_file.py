import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from logitstore.build.documents import DocumentReader
from logitstore.build.hashed_file import HashedFile


class CountingFile:
    """An open file that counts the bytes read from it."""

    def __init__(self, file):
        self._file, self.bytes_read = file, 0

    def read(self, size=-1):
        found = self._file.read(size)
        self.bytes_read += len(found)
        return found

    def __getattr__(self, name):
        return getattr(self._file, name)


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=400), st.lists(st.tuples(st.integers(0, 420), st.integers(0, 120)), max_size=12))
def test_any_order_of_reads_gives_the_bytes_and_in_the_end_the_hash(tmp_path_factory, content, reads):
    path = tmp_path_factory.mktemp("any") / "f"
    path.write_bytes(content)
    with path.open("rb") as file:
        hashed = HashedFile(file, "f")
        stream = hashed.stream()
        for start, length in reads:
            stream.seek(start)
            assert stream.read(length) == content[start : start + length]
            assert stream.tell() == start + len(content[start : start + length])
        hashed.skip()
        assert hashed.sha256() == hashlib.sha256(content).hexdigest()
        assert hashed.size == len(content)


@pytest.mark.parametrize("columns", [["text"], ["before", "text", "behind"]])
def test_a_parquet_file_is_read_once(tmp_path, columns, monkeypatch):
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, rng.integers(97, 123, 400))) for _ in range(3000)]
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table(dict.fromkeys(columns, texts)), path, row_group_size=200)
    files = []
    real = HashedFile.__init__

    def counting(self, file, name):
        files.append(CountingFile(file))
        real(self, files[-1], name)

    monkeypatch.setattr(HashedFile, "__init__", counting)
    reader = DocumentReader([path])
    assert [document.text for document in reader] == texts
    content = path.read_bytes()
    assert reader.files[0].sha256 == hashlib.sha256(content).hexdigest()
    assert reader.files[0].bytes == len(content)
    # the footer, where Parquet begins, is read again; everything else once
    assert len(files) == 1
    assert files[0].bytes_read < len(content) + (1 << 18)
