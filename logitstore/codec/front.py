"""The front of a blob: what it says of itself before anything in it is decoded."""

from __future__ import annotations

import struct
from contextlib import AbstractContextManager
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
_FORMS = {int(form): form for form in WeightForm}
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


class BlobHeader(NamedTuple):
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
    front = bytes(view[:MAX_FRONT_BYTES])
    _, version, number_of_form, flags, table_hash = _FIXED.unpack_from(front)
    form = _FORMS.get(number_of_form)
    if form is None or flags >> (1 + len(STATISTICS)):
        raise corrupt(f"the header has form {number_of_form} and flags {flags:#04x}, which mean nothing in this format")
    numbers, at = _read_varints(front, _FIXED.size, _NUM_VARINTS)
    scale, num_tokens, num_entries, masked, token_bytes, num_words, num_bit_bytes = numbers
    with broken_rule_is_corruption():
        check_form_and_scale(form, scale)
        check_sizes(num_tokens, num_entries)
    if masked > num_tokens or token_bytes > 2 * num_words + num_bit_bytes:
        raise corrupt(f"the header has {masked} masked positions of {num_tokens} and {token_bytes} bytes of tokens")
    lanes = LANES if flags & _ALL_LANES else 1
    body_bytes = 4 * lanes + 2 * num_words + num_bit_bytes
    sections, body_start, end = _read_sections(front, at, form, flags, body_bytes)
    if len(view) != end + CHECKSUM.size:
        raise corrupt(f"the blob has {len(view)} bytes; {end + CHECKSUM.size} were wanted by its header")
    return BlobHeader(
        version=version,
        form=form,
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


def _read_sections(
    front: bytes, at: int, form: WeightForm, flags: int, body_bytes: int
) -> tuple[tuple[Section, ...], int, int]:
    """Return where the sections lie, where the body before them begins, and where they end."""
    kinds = [Kind.VALUES] if form == WeightForm.FLOAT32 else []
    if flags > _ALL_LANES:
        kinds += [kind for bit, kind in enumerate(_STATISTIC_KINDS.values(), start=1) if flags >> bit & 1]
    sizes = []
    for kind in kinds:
        if at == len(front):
            raise corrupt(f"the blob ends after {at} bytes, within its header")
        storage = front[at]
        check_storage(kind, storage)
        (num_bytes,), at = _read_varints(front, at + 1, 1)
        sizes.append((kind, storage, num_bytes))
    end, sections = at + body_bytes, []
    for kind, storage, num_bytes in sizes:
        sections.append(Section(kind, storage, end, num_bytes))
        end += num_bytes
    return tuple(sections), at, end


class _BrokenRuleIsCorruption:
    # a class costs every blob less than a generator with `contextmanager`
    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, InvalidInput):
            raise corrupt(str(error).rstrip(".")) from error


def broken_rule_is_corruption() -> AbstractContextManager[None]:
    """Turn the InvalidInput of a rule that a blob's content breaks into the blob's StoreError."""
    return _BrokenRuleIsCorruption()


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


def _read_varints(front: bytes, at: int, count: int) -> tuple[list[int], int]:
    """Return `count` numbers of the front from byte `at` on, and the byte after them."""
    numbers: list[int] = []
    number = shift = 0
    for part in front[at:]:
        at += 1
        number |= (part & 0x7F) << shift
        if part > 0x7F:
            shift += 7
            if shift < 7 * _MAX_VARINT_BYTES:
                continue
        if shift == 7 * _MAX_VARINT_BYTES or number >= 1 << 32 or (part == 0 and shift > 0):
            raise corrupt(f"a number of the header, before byte {at}, is too large or longer than it need be")
        numbers.append(number)
        if len(numbers) == count:
            return numbers, at
        number = shift = 0
    raise corrupt(f"the blob ends after {at} bytes, within its header")
