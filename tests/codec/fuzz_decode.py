"""Coverage-guided fuzzing of what reads untrusted bytes: `make fuzz`, or `python -m tests.codec.fuzz_decode --help`.

The first byte chooses what the rest is: a frequency table, a blob of one of the golden tables, or the parts of a body.
Checksums and lengths are put right, or else nothing behind them would ever be reached. Whatever the bytes are, reading ends in a StoreError of a known
kind or in arrays that keep the rules; the compiled decoder and the plain one, which the fuzzer sees into, do the same;
and memory stays within what the header allows.
"""

import inspect
import struct
import sys
import zlib
from pathlib import Path

import atheris
import numpy as np

from logitstore.codec import coding, front, reference, rules, sections, table_file
from logitstore.codec.arrays import MAX_TOKENS
from logitstore.codec.body import LANES, Body
from logitstore.codec.table import FrequencyTable
from logitstore.errors import InvalidInput, StoreError
from tests.codec.coded_sequences import assert_keeps_the_rules, assert_same
from tests.codec.coded_surgery import seal
from tests.codec.make_golden import FOLDER

KINDS = {"corrupt-blob", "newer-format", "unsupported-format", "wrong-table", "corrupt-table"}
CASES = sorted(path.stem for path in FOLDER.glob("*.bin"))
TABLES = [FrequencyTable.from_bytes((FOLDER / f"{case}.table").read_bytes()) for case in CASES]
#: before a body: tokens, entries, bytes of tokens, bytes of plain bits
BODY_FRONT = struct.Struct("<4H")
#: larger ones only take time
MOST_TOKENS, MOST_ENTRIES = 2000, 20_000


def read_anything(data):
    if not data:
        return
    choice, rest = data[0] % (2 * len(TABLES) + 1), bytes(data[1:])
    try:
        if choice == 2 * len(TABLES):
            read_table(rest)
        elif choice >= len(TABLES):
            read_body(rest, TABLES[choice - len(TABLES)])
        else:
            read_blob(seal(rest), TABLES[choice])
    except StoreError as error:
        if error.kind not in KINDS:
            raise


def read_table(content):
    # a front that is right, over any content
    table = FrequencyTable.from_bytes(table_file.to_file(content) if content[:4] != b"\x93LGT" else content)
    assert FrequencyTable.from_bytes(table.to_bytes()).sha256 == table.sha256


def read_blob(blob, table):
    header = front.read_header(blob)
    if header.num_tokens > MOST_TOKENS or header.num_entries > MOST_ENTRIES:
        return
    assert header.num_tokens <= MAX_TOKENS
    if header.table_hash == table.short_hash and (header.form, header.scale) == (table.form, table.scale):
        compare_decoders(coding._body(header, blob), table, header.num_tokens, header.num_entries)
    decoded = coding.decode(blob, table)
    assert_keeps_the_rules(decoded, table.vocab_size)
    try:
        again = coding.encode(decoded, table)
    except InvalidInput as error:
        # a reader need not look for an id that stands in head and tail
        if "in its head and in its tail" not in str(error):
            raise
        return
    assert_same(coding.decode(again, table), decoded)


def read_body(data, table):
    if len(data) < BODY_FRONT.size:
        return
    num_tokens, num_entries, token_bytes, num_bits = BODY_FRONT.unpack_from(data)
    rest, lanes = data[BODY_FRONT.size :], LANES if num_tokens & 1 else 1
    words_end = len(rest) - min(num_bits, len(rest))
    if words_end < 4 * lanes or num_tokens > MOST_TOKENS:
        return
    words_end -= words_end % 2
    body = Body(
        states=np.frombuffer(rest, "<u4", lanes),
        words=np.frombuffer(rest[4 * lanes : words_end], "<u2"),
        bits=rest[words_end:],
        token_bytes=token_bytes,
    )
    compare_decoders(body, table, num_tokens, num_entries)


def compare_decoders(body, table, num_tokens, num_entries):
    found = []
    for decoder in (coding.fast, reference):
        try:
            found.append(decoder.decode_body(body, table, num_tokens, num_entries))
        except (InvalidInput, StoreError) as error:
            found.append(error)
    ours, plain = found
    if isinstance(ours, Exception) or isinstance(plain, Exception):
        assert isinstance(ours, Exception), plain
        assert isinstance(plain, Exception), ours
    else:
        assert_same(ours, plain)


def write_seeds(folder):
    """Give the fuzzer the golden blobs and tables to begin with."""
    folder.mkdir(parents=True, exist_ok=True)
    for choice, case in enumerate(CASES):
        blob = (FOLDER / f"{case}.bin").read_bytes()
        (folder / case).write_bytes(bytes([choice]) + blob[:-4])
        header = front.read_header(blob)
        sizes = BODY_FRONT.pack(header.num_tokens, header.num_entries, header.token_bytes, header.num_bit_bytes)
        body = blob[header.body_start : header.body_start + header.body_bytes]
        (folder / f"{case}-body").write_bytes(bytes([len(TABLES) + choice]) + sizes + body)
        file = (FOLDER / f"{case}.table").read_bytes()
        (folder / f"{case}-file").write_bytes(bytes([2 * len(TABLES)]) + file)
        (folder / f"{case}-content").write_bytes(bytes([2 * len(TABLES)]) + zlib.decompress(file[16:]))


def instrument():
    """Let the fuzzer see into what is not compiled; numba could not compile instrumented functions."""
    for module in (coding, front, reference, rules, sections, table_file):
        own = [found for _, found in inspect.getmembers(module) if getattr(found, "__module__", "") == module.__name__]
        for place in [module, *filter(inspect.isclass, own)]:
            for name, function in list(vars(place).items()):
                if inspect.isfunction(function) and function.__module__ == module.__name__:
                    setattr(place, name, atheris.instrument_func(function))


if __name__ == "__main__":
    instrument()
    corpus = Path(sys.argv[1] if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else ".fuzz-corpus")
    write_seeds(corpus)
    atheris.Setup([sys.argv[0], str(corpus), *[a for a in sys.argv[1:] if a.startswith("-")]], read_anything)
    atheris.Fuzz()
