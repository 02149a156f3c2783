"""The documents of a data set: its files found, read in order, and hashed on the way."""

# N tokens of a document

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from logitstore.build.data_formats import READERS, DataField
from logitstore.build.hashed_file import HashedFile
from logitstore.errors import InvalidInput

SUFFIXES = tuple(READERS)


@dataclass(frozen=True, eq=False)
class Document:
    """One document, as text or as token ids.

    Attributes:
        file_index: index of its file in the reader's list.
        where: file and place, for messages: "a.txt", "a.jsonl:3" (lines from 1), "a.parquet row 12" (rows from 0).
        text: more than white space; None where the data holds token ids.
        tokens: token ids, [N] int32, N >= 1; None where the data holds text.
    """

    file_index: int
    where: str
    text: str | None
    tokens: NDArray[np.int32] | None


@dataclass(frozen=True)
class DataFile:
    """What a store records of one data file.

    Attributes:
        name: the file's name in messages and records.
        bytes: its size on disk.
        sha256: of its bytes on disk, in hexadecimal.
        documents: documents taken from it, empty ones not counted.
        empty_documents: documents skipped, as there is nothing in them.
    """

    name: str
    bytes: int
    sha256: str
    documents: int
    empty_documents: int

    def to_dict(self) -> dict[str, Any]:
        """Return the record as a store writes it."""
        return asdict(self)


def find_data_files(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return the data files that files, directories and globs stand for, each once, sorted by path.

    Paths sort part by part, as `Path` does. A directory stands for all files in and below it that have a known
    suffix (upper or lower case), links followed; a glob (`**` too) for all files and directories it matches. Hidden
    files are skipped unless named. A file that several paths or links lead to counts once, under the first path.

    Raises:
        InvalidInput: kind "data-missing", a path or glob leads to no data file; "data-format", a file named by
            itself has an unknown suffix; "data-unreadable", the system refuses to show a file or directory.
    """
    if isinstance(paths, str | os.PathLike):
        raise InvalidInput(f"data is the single path {os.fspath(paths)!r}; a list of paths was wanted.")
    if not paths:
        raise InvalidInput("no data was named; at least one file, directory or glob is needed.", kind="data-missing")
    first_paths: dict[str, Path] = {}
    for file in sorted(file for path in paths for file in _expand(os.fspath(path))):
        first_paths.setdefault(os.path.realpath(file), file)
    return list(first_paths.values())


class DocumentReader:
    """The documents of some data files, in order; each file is hashed on the way.

    Iterating yields one `Document` after the other, and appends a file's record to `files` once its last document
    was taken; it is hashed in the pass that reads it. Text stays as it is, line ends included; only a byte
    order mark is dropped. JSON lines and rows without text or tokens are skipped and counted.

    Args:
        files: data files, such as `find_data_files` returns.
        text_field: field of the JSON objects, or column, that holds the text.
        tokens_field: the one that holds token ids; where it is given, it is read instead of the text.
        display: gives a file's name in messages and records; by default its path as it is.

    Attributes:
        files: records of the files read so far.

    Raises:
        InvalidInput: kind "data-format", a file's suffix is unknown, or plain text is to hold token ids. While
            iterating: "data-missing"; "data-unreadable", also for a corrupt Parquet file; "data-encoding", not
            UTF-8; "data-json", a line is not JSON; "data-field", the field is missing or holds something else;
            "data-empty", nothing in a file's documents. All but the first of these name the file and the place.
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        text_field: str = "text",
        tokens_field: str | None = None,
        display: Callable[[Path], str] = str,
    ) -> None:
        self.files: list[DataFile] = []
        self._paths = list(files)
        self._display = display
        self._field = DataField(text_field if tokens_field is None else tokens_field, tokens_field is not None)
        self._unfinished: _Progress | None = None
        for path in self._paths:
            if _suffix(path) == ".txt" and tokens_field is not None:
                raise InvalidInput(
                    f"{display(path)} is plain text and holds no token ids, but the tokens field {tokens_field!r} was "
                    "asked for. Give .jsonl or .parquet files, or leave the tokens field out.",
                    kind="data-format",
                )

    def __iter__(self) -> Iterator[Document]:
        self.files = []
        for index, path in enumerate(self._paths):
            progress = self._unfinished = _Progress(path, self._display(path))
            with _opened(progress) as file:
                yield from self._documents(index, file, progress)
            if progress.documents == 0:
                raise _empty(progress)
            self.files.append(progress.record(file))
            self._unfinished = None

    def finish(self) -> None:
        """Record the file in which iteration was given up, where there is one, after a pass of its own to hash it.

        The record counts the documents taken until then. Files that were not begun get no record. Do not go on
        with the iteration that was given up.

        Raises:
            InvalidInput: kind "data-missing" or "data-unreadable".
        """
        progress, self._unfinished = self._unfinished, None
        if progress is not None:
            with _opened(progress) as file:
                file.skip()
            self.files.append(progress.record(file))

    def _documents(self, index: int, file: HashedFile, progress: _Progress) -> Iterator[Document]:
        for where, content in READERS[_suffix(progress.path)](file, self._field):
            text, tokens = (content, None) if isinstance(content, str) else (None, content)
            if len(content) == 0 or (text is not None and text.isspace()):
                progress.empty_documents += 1
            else:
                progress.documents += 1
                yield Document(index, where, text, tokens)


@dataclass
class _Progress:
    """How far a file has been read."""

    path: Path
    name: str
    documents: int = 0
    empty_documents: int = 0

    def record(self, file: HashedFile) -> DataFile:
        return DataFile(self.name, file.size, file.sha256(), self.documents, self.empty_documents)


@contextmanager
def _opened(progress: _Progress) -> Iterator[HashedFile]:
    """Open a data file; errors of the system or of Arrow while it is read become errors that name it."""
    try:
        with progress.path.open("rb") as file:
            yield HashedFile(file, progress.name)
    except FileNotFoundError:
        raise _missing(progress.name, "there is no such file") from None
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        # the last is a damaged column name: the formats report undecodable text themselves
        raise _unreadable(progress.name, error) from error


def _expand(path: str) -> list[Path]:
    """Return the data files that one path, directory or glob stands for, in any order."""
    mode = _mode(path)
    if stat.S_ISREG(mode):
        _suffix(Path(path))
        return [Path(path)]
    if stat.S_ISDIR(mode):
        files, where = list(_files_below(path)), "in or below this directory"
    elif mode:
        raise InvalidInput(f"{path} is neither a file nor a directory; data must be on disk.", kind="data-format")
    elif any(character in path for character in "*?["):
        files = [file for match in glob.iglob(path, recursive=True) for file in _found(match)]
        where = "that this pattern matches"
    else:
        raise _missing(path, "there is no such file or directory")
    if not files:
        raise _missing(path, f"there is no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file {where}")
    return files


def _files_below(directory: str) -> Iterator[Path]:
    """Yield the data files in and below a directory; each directory is entered once, as links can make circles."""
    entered: set[str] = set()
    for here, directories, names in os.walk(directory, followlinks=True, onerror=_raise_unreadable):
        if os.path.realpath(here) in entered:
            directories.clear()
            continue
        entered.add(os.path.realpath(here))
        # sorted: which of two paths to one directory is taken must not depend on the file system
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                yield from _found(os.path.join(here, name))


def _found(path: str) -> list[Path]:
    """Return the data files at or below something that was come across, not named."""
    mode = _mode(path)
    if mode == 0 and os.path.islink(path):
        raise _missing(path, "it is a link to something that is not there")
    if stat.S_ISDIR(mode):
        return list(_files_below(path))
    known = stat.S_ISREG(mode) and os.path.splitext(path)[1].lower() in SUFFIXES
    return [Path(path)] if known else []


def _mode(path: str) -> int:
    """Return the mode of what a path leads to, links followed; 0 where that is nothing."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        # ValueError: a zero byte, which no path has
        return 0
    except OSError as error:
        raise _unreadable(path, error) from error


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        found = f"the suffix {suffix!r}" if suffix else "no suffix"
        raise InvalidInput(
            f"{path} has {found}; data files are {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.", kind="data-format"
        )
    return suffix


def _missing(name: str, found: str) -> InvalidInput:
    return InvalidInput(f"data {name!r}: {found}.", kind="data-missing")


def _unreadable(name: str, error: Exception) -> InvalidInput:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return InvalidInput(
        f"{name} cannot be read: {reason.rstrip('.')}. Check its permissions, and that it was copied whole.",
        kind="data-unreadable",
    )


def _raise_unreadable(error: OSError) -> None:
    raise _unreadable(str(error.filename), error) from error


def _empty(progress: _Progress) -> InvalidInput:
    found = f"its {progress.empty_documents} document(s) hold" if progress.empty_documents else "it holds"
    return InvalidInput(
        f"{progress.name} is empty: {found} no text and no tokens. Leave the file out of the data.", kind="data-empty"
    )
