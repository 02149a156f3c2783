"""Taking blobs apart and putting them together again, from FORMAT.md alone."""

import struct

import google_crc32c


def seal(body):
    """Append the checksum."""
    return body + struct.pack("<I", google_crc32c.value(bytes(body)))


def take_apart(blob):
    """Return the header's fields after the magic, and [kind, storage, payload] of each section."""
    fields = list(struct.unpack_from("<4B4I", blob, 4))
    num_sections = fields[2]
    rows = [list(struct.unpack_from("<BBI", blob, 24 + 6 * i)) for i in range(num_sections)]
    start, sections = 24 + 6 * num_sections, []
    for kind, storage, num_bytes in rows:
        sections.append([kind, storage, blob[start : start + num_bytes]])
        start += num_bytes
    assert start + 4 == len(blob)
    return fields, sections


def put_together(fields, sections):
    table = b"".join(struct.pack("<BBI", kind, storage, len(payload)) for kind, storage, payload in sections)
    return seal(b"\x93LGS" + struct.pack("<4B4I", *fields) + table + b"".join(payload for _, _, payload in sections))
