"""The front of a blob: what it says of itself before anything in it is decoded."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from logitstore.codec.arrays import STATISTICS, WeightForm, check_sizes
from logitstore.codec.body import LANES
from logitstore.codec.rules import check_form_and_scale
from logitstore.codec.sections import EncodedSection, Kind, check_storage, corrupt
from logitstore.errors import InvalidInput, StoreError

FORMAT_VERSION = 2

_MAGIC = b"\x93LGS"
#: magic, version, form, flags, first bytes of the table's SHA-256
_FIXED = struct.Struct("<4s3B4s")
#: flags: bit 0 for all lanes, one bit for each statistic from bit 1 on
_ALL_LANES = 1
_STATISTIC_KINDS = {name: Kind[name.upper()] for name in STATISTICS}
#: scale, tokens, entries, masked positions, token bytes, words, bytes of plain bits
_NUM_VARINTS = 7
_MAX_VARINT_BYTES = 5
#: crc32c of all before it
CHECKSUM = struct.Struct("<I")
#: of a blob with every statistic and FLOAT32's values
MAX_FRONT_BYTES = _FIXED.size + _MAX_VARINT_BYTES * _NUM_VARINTS + (1 + _MAX_VARINT_BYTES) * (1 + len(STATISTICS))


class Section(NamedTuple):
    """A list of values beside the body: `num_bytes` from byte `start` of the blob on."""

    kind: Kind
    storage: int
    start: int
    num_bytes: int


@dataclass(frozen=True)
class BlobHeader:
    """What a blob says of itself.

    Attributes:
        version: format version.
        form: how the weights are stored.
        scale: draws (COUNTS), grid (HEAD_GRID), largest code (PROBABILITIES), otherwise 0.
        num_tokens: S.
        num_entries: E.
        num_positions: positions with a target.
        table_hash: the first 4 bytes of the SHA-256 of the frequency table it was written with.
        token_bytes: bytes that the tokens take.
        lanes: states of the entropy coder, 1 or 8.
        num_words: words of the body.
        num_bit_bytes: bytes of the body's plain bits.
        body_start: where the body begins.
        sections: where FLOAT32's values and the statistics lie.
        total_bytes: length of the blob.
    """

    version: int
    form: WeightForm
    scale: int
    num_tokens: int
    num_entries: int
    num_positions: int
    table_hash: bytes
    token_bytes: int
    lanes: int
    num_words: int
    num_bit_bytes: int
    body_start: int
    sections: tuple[Section, ...]
    total_bytes: int

    @property
    def body_bytes(self) -> int:
        """Bytes of the body: states, words, plain bits."""
        return 4 * self.lanes + 2 * self.num_words + self.num_bit_bytes

    @property
    def entry_bytes(self) -> int:
        """Bytes that the entries take: the body without the tokens, and FLOAT32's values."""
        values = sum(section.num_bytes for section in self.sections if section.kind == Kind.VALUES)
        return self.body_bytes - self.token_bytes + values

    @property
    def statistics_bytes(self) -> int:
        """Bytes that the teacher's statistics take."""
        return sum(section.num_bytes for section in self.sections if section.kind != Kind.VALUES)


def write_front(
    form: WeightForm, table_hash: bytes, lanes: int, numbers: list[int], sections: dict[Kind, EncodedSection]
) -> bytes:
    """Return the front of a blob.

    `numbers` are scale, tokens, entries, masked positions, token bytes, words, bytes of plain bits; `sections` are in
    ascending order of kind.
    """
    flags = _ALL_LANES if lanes == LANES else 0
    for bit, kind in enumerate(_STATISTIC_KINDS.values(), start=1):
        flags |= (kind in sections) << bit
    front = _FIXED.pack(_MAGIC, FORMAT_VERSION, form, flags, table_hash)
    front += b"".join(_varint(number) for number in numbers)
    return front + b"".join(bytes([part.storage]) + _varint(len(part.payload)) for part in sections.values())


def read_header(blob: bytes | memoryview) -> BlobHeader:
    """Return the header of a blob, after checking magic, version and lengths, but no checksum.

    Raises:
        StoreError: kind "corrupt-blob", "unsupported-format", or "newer-format".
    """
    view = memoryview(blob).cast("B")
    _check_version(view)
    if len(view) < _FIXED.size:
        raise corrupt(f"the blob has {len(view)} bytes, too few for a header")
    cursor, (_, version, form, flags, table_hash) = _Cursor(view, _FIXED.size), _FIXED.unpack_from(view)
    if form not in tuple(WeightForm) or flags >> (1 + len(STATISTICS)):
        raise corrupt(f"the header has form {form} and flags {flags:#04x}, which mean nothing in this format")
    scale, num_tokens, num_entries, masked, token_bytes, num_words, num_bit_bytes = (
        cursor.varint() for _ in range(_NUM_VARINTS)
    )
    with broken_rule_is_corruption():
        check_form_and_scale(WeightForm(form), scale)
        check_sizes(num_tokens, num_entries)
    if masked > num_tokens or token_bytes > 2 * num_words + num_bit_bytes:
        raise corrupt(f"the header has {masked} masked positions of {num_tokens} and {token_bytes} bytes of tokens")
    lanes = LANES if flags & _ALL_LANES else 1
    body_bytes = 4 * lanes + 2 * num_words + num_bit_bytes
    sections, body_start = _read_sections(cursor, WeightForm(form), flags, body_bytes)
    return BlobHeader(
        version=version,
        form=WeightForm(form),
        scale=scale,
        num_tokens=num_tokens,
        num_entries=num_entries,
        num_positions=num_tokens - masked,
        table_hash=table_hash,
        token_bytes=token_bytes,
        lanes=lanes,
        num_words=num_words,
        num_bit_bytes=num_bit_bytes,
        body_start=body_start,
        sections=sections,
        total_bytes=len(view),
    )


def _read_sections(cursor: _Cursor, form: WeightForm, flags: int, body_bytes: int) -> tuple[tuple[Section, ...], int]:
    """Return where the sections lie and where the body begins, after checking that all of it fills the blob."""
    kinds = [Kind.VALUES] if form == WeightForm.FLOAT32 else []
    kinds += [kind for bit, kind in enumerate(_STATISTIC_KINDS.values(), start=1) if flags >> bit & 1]
    sizes = [(kind, cursor.byte(), cursor.varint()) for kind in kinds]
    start, sections = cursor.at + body_bytes, []
    for kind, storage, num_bytes in sizes:
        check_storage(kind, storage)
        sections.append(Section(kind, storage, start, num_bytes))
        start += num_bytes
    if cursor.size != start + CHECKSUM.size:
        raise corrupt(f"the blob has {cursor.size} bytes; {start + CHECKSUM.size} were wanted by its header")
    return tuple(sections), cursor.at


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
    if version == 1:
        raise StoreError(
            "the blob has format version 1, which no release wrote and this one does not read. Build the store anew.",
            kind="unsupported-format",
        )
    if version == 0:
        raise corrupt("the blob has format version 0, which does not exist")


def _varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


class _Cursor:
    """Reads numbers of the front one after the other."""

    def __init__(self, view: memoryview, at: int) -> None:
        self._view, self.at, self.size = view, at, len(view)

    def byte(self) -> int:
        if self.at == self.size:
            raise corrupt(f"the blob ends after {self.at} bytes, within its header")
        self.at += 1
        return self._view[self.at - 1]

    def varint(self) -> int:
        number = 0
        for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
            part = self.byte()
            number |= (part & 0x7F) << shift
            if part < 0x80:
                if number >= 1 << 32 or (part == 0 and shift > 0):
                    break
                return number
        raise corrupt(f"a number of the header, before byte {self.at}, is too large or longer than it need be")
