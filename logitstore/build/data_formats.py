"""The formats of data files: how plain text, JSON lines and Parquet give up their documents."""

# N tokens of a document

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from logitstore.build.hashed_file import HashedFile
from logitstore.errors import InvalidInput

#: a document's text, or its token ids [N] int32
Content = str | NDArray[np.int32]

#: rows decoded at once: few, as one row may be a whole book
_PARQUET_ROWS = 64
_INT32 = np.iinfo(np.int32)
_NAMES_SHOWN = 12
_EXCERPT_CHARACTERS = 24
_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class DataField:
    """The field of a JSON object, or the column of a Parquet file, that holds the documents.

    Attributes:
        name: its name.
        holds_tokens: whether it holds token ids rather than text.
    """

    name: str
    holds_tokens: bool

    def missing(self, where: str, names: list[str]) -> InvalidInput:
        """Return the error for a place that has other fields only."""
        shown = ", ".join(map(repr, names[:_NAMES_SHOWN])) + (", ..." if len(names) > _NAMES_SHOWN else "")
        found = f"there are {shown}" if names else "it has no fields at all"
        option = "tokens" if self.holds_tokens else "text"
        return InvalidInput(
            f"{where} has no field {self.name!r}; {found}. Name the right one as the {option} field.",
            kind="data-field",
        )

    def wrong(self, where: str, found: str) -> InvalidInput:
        """Return the error for a field of another type."""
        wanted = "a list of token ids" if self.holds_tokens else "text (a string)"
        return InvalidInput(f"{where}: field {self.name!r} is {found}; {wanted} was wanted.", kind="data-field")

    def wrong_token(self, where: str, index: int, value: Any) -> InvalidInput:
        """Return the error for a list with something in it that is no token id."""
        return InvalidInput(
            f"{where}: field {self.name!r} has {value!r} at index {index}; token ids are whole numbers of at most "
            "32 bits.",
            kind="data-field",
        )


def read_text(file: HashedFile, field: DataField) -> Iterator[tuple[str, Content]]:
    """Yield the one document of a plain text file; `field` changes nothing."""
    yield file.name, _decode(file.read(), file.name).removeprefix(_BYTE_ORDER_MARK)


def read_json_lines(file: HashedFile, field: DataField) -> Iterator[tuple[str, Content]]:
    """Yield (place, content) of each line that is not blank."""
    for number, line in enumerate(file.lines(), start=1):
        where = f"{file.name}:{number}"
        text = _decode(line, where)
        if number == 1:
            text = text.removeprefix(_BYTE_ORDER_MARK)
        if text and not text.isspace():
            yield where, _json_content(text, where, field)


def read_parquet(file: HashedFile, field: DataField) -> Iterator[tuple[str, Content]]:
    """Yield (place, content) of each row, rows counted from 0; only the one column is decoded."""
    opened = parquet.ParquetFile(file.stream(), page_checksum_verification=True)
    content_of = _parquet_content(opened.schema_arrow, file.name, field)
    row = 0
    for batch in opened.iter_batches(batch_size=_PARQUET_ROWS, columns=[field.name], use_threads=False):
        # by name: field "more" of a column "text" comes along with a column "text.more"
        for value in batch.column(batch.schema.get_field_index(field.name)):
            where = f"{file.name} row {row}"
            if not value.is_valid:
                raise field.wrong(where, "null")
            yield where, content_of(value, where, field)
            row += 1
    file.skip()


READERS: dict[str, Callable[[HashedFile, DataField], Iterator[tuple[str, Content]]]] = {
    ".txt": read_text,
    ".jsonl": read_json_lines,
    ".parquet": read_parquet,
}


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        # a line of JSON has its number in `where`
        line = data.count(b"\n", 0, error.start) + 1
        place = f"offset {error.start}" + (f" (line {line})" if line > 1 else "")
        raise InvalidInput(
            f"{where} is not UTF-8: byte 0x{data[error.start]:02x} at {place} is no part of a character. Convert the "
            "file to UTF-8 first.",
            kind="data-encoding",
        ) from None


def _json_content(line: str, where: str, field: DataField) -> Content:
    record = _json_record(line, where)
    if not isinstance(record, dict):
        raise InvalidInput(
            f"{where} is {_excerpt(record)}; a JSON object with the field {field.name!r} was wanted.", kind="data-field"
        )
    if field.name not in record:
        raise field.missing(where, list(record))
    value = record[field.name]
    if not isinstance(value, list if field.holds_tokens else str):
        raise field.wrong(where, _excerpt(value))
    if isinstance(value, str):
        return _whole_characters(value, where)
    for index, token in enumerate(value):
        # not isinstance: a bool is an int to it
        if type(token) is not int or not _INT32.min <= token <= _INT32.max:
            raise field.wrong_token(where, index, token)
    return np.array(value, dtype=np.int32)


def _json_record(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        found = f"{error.msg} at character {error.pos}"
        near = line[max(0, error.pos - _EXCERPT_CHARACTERS) : error.pos + _EXCERPT_CHARACTERS].rstrip()
    except (ValueError, RecursionError) as error:
        # a number of thousands of digits, or brackets nested thousands deep
        found, near = str(error), line[:_EXCERPT_CHARACTERS]
    raise InvalidInput(
        f"{where} is not JSON: {found}, near {near!r}. Each line must be one JSON object.", kind="data-json"
    )


def _whole_characters(text: str, where: str) -> str:
    """Return `text`, refusing halves of surrogate pairs, which JSON can escape and no tokenizer can read."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{where}: the text has half a surrogate pair, {text[error.start]!r}, at character {error.start}; it is "
            "no Unicode text. Was it cut in the middle of a character?",
            kind="data-encoding",
        ) from None
    return text


def _excerpt(value: Any) -> str:
    """Return what a JSON value is, in a few words."""
    if value is None:
        return "null"
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    shown = repr(value)
    return f"{type(value).__name__} {shown[:_EXCERPT_CHARACTERS]}{'...' if len(shown) > _EXCERPT_CHARACTERS else ''}"


def _parquet_content(schema: Any, name: str, field: DataField) -> Callable[[Any, str, DataField], Content]:
    """Return what turns one value of the column into content, once the column has the right type."""
    names = list(schema.names)
    if names.count(field.name) > 1:
        raise field.wrong(name, f"there {names.count(field.name)} times")
    if field.name not in names:
        raise field.missing(name, names)
    found = schema.field(field.name).type
    if field.holds_tokens:
        lists = pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)
        if lists and pa.types.is_integer(found.value_type):
            return _parquet_tokens
    else:
        plain = found.value_type if pa.types.is_dictionary(found) else found
        if pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain):
            return _parquet_text
    raise field.wrong(name, f"of type {found}")


def _parquet_text(value: Any, where: str, field: DataField) -> str:
    try:
        text: str = value.as_py()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{where} is not UTF-8 at byte {error.start} of field {field.name!r}; write the column as text again.",
            kind="data-encoding",
        ) from None
    return text


def _parquet_tokens(value: Any, where: str, field: DataField) -> NDArray[np.int32]:
    values = value.values
    if values.null_count:
        raise field.wrong_token(where, values.is_null().index(True).as_py(), None)
    wide: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    tokens = wide.astype(np.int32)
    changed = np.flatnonzero(tokens != wide)
    if len(changed):
        raise field.wrong_token(where, int(changed[0]), int(wide[changed[0]]))
    return tokens
