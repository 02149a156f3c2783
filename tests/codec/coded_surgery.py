"""Taking blobs of format 2 apart and putting them together again, from FORMAT.md alone."""

import struct

import google_crc32c

#: names of the varints of a front
NUMBERS = ("scale", "tokens", "entries", "masked", "token_bytes", "words", "bit_bytes")


def seal(body):
    """Append the checksum."""
    return bytes(body) + struct.pack("<I", google_crc32c.value(bytes(body)))


def read_varint(blob, at):
    number = shift = 0
    while True:
        number |= (blob[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if blob[at - 1] < 0x80:
            return number, at


def varint(number):
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def take_apart(blob):
    """Return the fixed front, its numbers by name, [storage, bytes] of each section, and all that follows the front."""
    at, numbers = 11, {}
    for name in NUMBERS:
        numbers[name], at = read_varint(blob, at)
    sections = []
    for _ in range((blob[5] == 3) + (blob[6] >> 1).bit_count()):
        storage = blob[at]
        num_bytes, at = read_varint(blob, at + 1)
        sections.append([storage, num_bytes])
    return blob[:11], numbers, sections, blob[at:-4]


def put_together(fixed, numbers, sections, rest):
    front = fixed + b"".join(varint(numbers[name]) for name in NUMBERS)
    front += b"".join(bytes([storage]) + varint(num_bytes) for storage, num_bytes in sections)
    return seal(front + rest)
