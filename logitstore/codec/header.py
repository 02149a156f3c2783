"""The front of a blob: header and section table."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from logitstore.codec.arrays import STATISTICS, WeightForm, check_form, check_sizes
from logitstore.codec.sections import EncodedSection, Kind, check_storage, corrupt
from logitstore.errors import InvalidInput, StoreError

FORMAT_VERSION = 1

#: kind of the section that holds each statistic
STATISTIC_KINDS = {name: Kind[name.upper()] for name in STATISTICS}

_KINDS = {kind.value: kind for kind in Kind}
_REQUIRED = {
    form: [kind for kind in Kind if kind <= Kind.VALUES and (kind != Kind.HEAD_COUNTS or form == WeightForm.HEAD_GRID)]
    for form in WeightForm
}

_MAGIC = b"\x93LGS"
#: magic, version, form, sections, 0, scale, tokens, entries, positions with a target
_HEADER = struct.Struct("<4s4B4I")
#: kind, storage, bytes
_TABLE_ROW = struct.Struct("<BBI")
CHECKSUM = struct.Struct("<I")
#: of a blob that has every section there is
MAX_FRAME_BYTES = _HEADER.size + len(Kind) * _TABLE_ROW.size + CHECKSUM.size


@dataclass(frozen=True)
class Section:
    """A row of the section table: `num_bytes` from byte `start` of the blob on."""

    kind: Kind
    storage: int
    start: int
    num_bytes: int


@dataclass(frozen=True)
class BlobHeader:
    """What a blob says of itself before anything in it is decoded.

    Attributes:
        version: format version.
        form: how the weights are stored.
        scale: draws (COUNTS) or grid (HEAD_GRID), otherwise 0.
        num_tokens: S.
        num_entries: E.
        num_positions: positions with a target.
        sections: where the parts lie, in ascending order of kind.
        total_bytes: length of the blob.
    """

    version: int
    form: WeightForm
    scale: int
    num_tokens: int
    num_entries: int
    num_positions: int
    sections: tuple[Section, ...]
    total_bytes: int

    @property
    def token_bytes(self) -> int:
        """Bytes of the section that holds the tokens."""
        return self._bytes_of(lambda kind: kind == Kind.TOKENS)

    @property
    def entry_bytes(self) -> int:
        """Bytes of the sections that hold the entries: how many, ids, weights."""
        return self._bytes_of(lambda kind: Kind.COUNTS <= kind <= Kind.VALUES)

    @property
    def statistics_bytes(self) -> int:
        """Bytes of the sections that hold the teacher's statistics."""
        return self._bytes_of(lambda kind: kind > Kind.VALUES)

    def _bytes_of(self, wanted: Callable[[Kind], bool]) -> int:
        return sum(section.num_bytes for section in self.sections if wanted(section.kind))


def write_front(
    form: WeightForm,
    scale: int,
    sections: Mapping[Kind, EncodedSection],
    *,
    num_tokens: int,
    num_entries: int,
    num_positions: int,
) -> bytes:
    """Return the header and the section table of a blob; `sections` are in ascending order of kind."""
    header = _HEADER.pack(_MAGIC, FORMAT_VERSION, form, len(sections), 0, scale, num_tokens, num_entries, num_positions)
    rows = (_TABLE_ROW.pack(kind, section.storage, len(section.payload)) for kind, section in sections.items())
    return header + b"".join(rows)


def read_header(blob: bytes | memoryview) -> BlobHeader:
    """Return the header of a blob, after checking magic, version, section table and lengths, but no checksum.

    Raises:
        StoreError: corrupt-blob, or newer-format.
    """
    view = memoryview(blob).cast("B")
    _check_version(view)
    if len(view) < _HEADER.size:
        raise corrupt(f"the blob has {len(view)} bytes, fewer than its header's {_HEADER.size}")
    _, version, form, num_sections, zero, scale, num_tokens, num_entries, num_positions = _HEADER.unpack_from(view)
    if form not in tuple(WeightForm) or zero != 0:
        raise corrupt(f"the header has form {form} and reserved byte {zero}; a known form and 0 were wanted")
    with broken_rule_is_corruption():
        check_form(WeightForm(form), scale)
        check_sizes(num_tokens, num_entries)
    return BlobHeader(
        version=version,
        form=WeightForm(form),
        scale=scale,
        num_tokens=num_tokens,
        num_entries=num_entries,
        num_positions=num_positions,
        sections=_read_table(view, num_sections, WeightForm(form)),
        total_bytes=len(view),
    )


@contextmanager
def broken_rule_is_corruption() -> Iterator[None]:
    """Turn the InvalidInput of a rule that a blob's content breaks into the blob's StoreError."""
    try:
        yield
    except InvalidInput as error:
        raise corrupt(str(error).rstrip(".")) from error


def _check_version(view: memoryview) -> None:
    magic = bytes(view[: len(_MAGIC)])
    if magic != _MAGIC or len(view) == len(_MAGIC):
        raise corrupt(f"a blob of {len(view)} bytes starts with {magic!r}; {_MAGIC!r} and a version were wanted")
    version = view[len(_MAGIC)]
    if version > FORMAT_VERSION:
        raise StoreError(
            f"the blob has format version {version}; this logitstore reads up to {FORMAT_VERSION}. Upgrade logitstore.",
            kind="newer-format",
        )
    if version < 1:
        raise corrupt(f"the blob has format version {version}, which does not exist")


def _read_table(view: memoryview, num_sections: int, form: WeightForm) -> tuple[Section, ...]:
    start = _HEADER.size + num_sections * _TABLE_ROW.size
    if len(view) < start + CHECKSUM.size:
        raise corrupt(f"the blob has {len(view)} bytes, too few for {num_sections} sections")
    sections = []
    for number, storage, num_bytes in _TABLE_ROW.iter_unpack(view[_HEADER.size : start]):
        kind = _KINDS.get(number)
        if kind is None:
            raise corrupt(f"the section table has a section of kind {number}, which does not exist")
        check_storage(kind, storage)
        sections.append(Section(kind, storage, start, num_bytes))
        start += num_bytes
    if len(view) != start + CHECKSUM.size:
        raise corrupt(f"the blob has {len(view)} bytes; {start + CHECKSUM.size} were wanted by its section table")
    kinds = [section.kind for section in sections]
    ascending = all(a < b for a, b in pairwise(kinds))
    if not ascending or [kind for kind in kinds if kind <= Kind.VALUES] != _REQUIRED[form]:
        raise corrupt(f"the section table lists {', '.join(kind.name for kind in kinds)}, which is not {form.name}'s")
    return tuple(sections)
