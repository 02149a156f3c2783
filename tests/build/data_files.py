"""Data files for the tests of reading them."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from logitstore.build.documents import DocumentReader
from logitstore.errors import InvalidInput


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_parquet(path, values, column="text", type_=None, **options):
    parquet.write_table(
        pa.table({column: pa.array(values, type=type_), "other": pa.nulls(len(values))}), path, **options
    )
    return path


def names(files, root):
    return [file.relative_to(root).as_posix() for file in files]


def read(*files, **options):
    reader = DocumentReader(files, display=lambda path: path.name, **options)
    return list(reader), reader.files


def texts(*files, **options):
    return [document.text for document in read(*files, **options)[0]]


def token_lists(*files, field="ids"):
    documents, _ = read(*files, tokens_field=field)
    assert all(document.tokens.dtype == np.int32 and document.text is None for document in documents)
    return [document.tokens.tolist() for document in documents]


def refusal(function, kind, *parts):
    """The text of the error that `function` raises; it must be of `kind` and contain all `parts`."""
    with pytest.raises(InvalidInput) as caught:
        function()
    assert caught.value.kind == kind
    for part in parts:
        assert part in str(caught.value)
    return str(caught.value)
