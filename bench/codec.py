"""Bytes a position and speed of the codec on rows of a real teacher, beside other layouts of the same rows, in one run.

python bench/codec.py --rows FOLDER [--top-rows FOLDER] [--json bench/results/codec.json]

The frequency table is fitted to the even sequences, everything is measured on the odd ones, in blobs of one sequence.
Round trips are checked before anything is timed. Speeds are the best of several rounds for each blob, on one core;
sequences go in pairs there, of 2,048 tokens. bench/codec_rows.py says what the rows are and makes top-k rows.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import codec_rows
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numcodecs import Blosc, Zstd

from logitstore.codec.arrays import SequenceArrays, WeightForm
from logitstore.codec.coding import decode, encode
from logitstore.codec.front import read_header
from logitstore.codec.probability_codes import probability_error
from logitstore.codec.streams import label_entries, numbers_of
from logitstore.codec.table import TOTAL, FrequencyTable
from logitstore.codec.weights import entry_weights

VOCAB_SIZE = 262_144
#: bytes of entries a position, million positions decoded and encoded a second
BARS = {
    "random-sampling-50": (18.0, 6.0, 0.5),
    "threshold-18": (11.5, 8.0, 0.5),
    "threshold-20": (11.6, 8.0, 0.5),
    "top-k-50": (75.0, None, None),
}
_FIXED_LENGTH_DOCUMENT = 20


def check_round_trip(arrays: SequenceArrays, blob: bytes, table: FrequencyTable) -> None:
    found = decode(blob, table)
    for name in ("tokens", "counts", "ids", "values", "head_counts"):
        ours, theirs = getattr(found, name), getattr(arrays, name)
        if name == "values" and arrays.form == WeightForm.PROBABILITIES:
            bounds = probability_error(theirs, arrays.scale)
            assert (np.abs(ours.astype(np.float64) - theirs) <= bounds).all(), "a probability is off its bound"
        else:
            assert np.array_equal(ours, theirs), f"{name} did not come back"


def best_seconds(function: Callable[[Any], Any], items: list[Any], rounds: int) -> float:
    best = [math.inf] * len(items)
    for _ in range(rounds):
        for nth, item in enumerate(items):
            begin = time.perf_counter()
            function(item)
            best[nth] = min(best[nth], time.perf_counter() - begin)
    return sum(best)


def value_bytes(arrays: SequenceArrays) -> bytes:
    """One byte for each value, as others would store them."""
    if arrays.form == WeightForm.PROBABILITIES:
        return np.clip(np.rint(-8 * np.log2(arrays.values)), 0, 255).astype(np.uint8).tobytes()
    return arrays.values.astype(np.uint8).tobytes()


def other_layouts(sequences: list[SequenceArrays]) -> dict[str, float]:
    """Bytes of one blob a sequence in layouts of others; the tokens are left out."""
    sizes = dict.fromkeys(("raw", "raw + zstd 3", "blosc zstd shuffle"), 0)
    zstd, blosc = Zstd(3), Blosc("zstd", 5, Blosc.SHUFFLE)
    for arrays in sequences:
        shapes = arrays.counts.astype("<u1").tobytes()
        if arrays.head_counts is not None:
            shapes += arrays.head_counts.astype("<u1").tobytes()
        # 18 bits of id and 6 of a count make 24; other values have a byte of their own
        ids = arrays.ids.astype("<u4")
        packed = ids | arrays.values << np.uint32(18) if arrays.form == WeightForm.COUNTS else ids
        raw = packed.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes() + shapes
        values = b"" if arrays.form == WeightForm.COUNTS else value_bytes(arrays)
        sizes["raw"] += len(raw + values)
        sizes["raw + zstd 3"] += len(zstd.encode(raw + values))
        sizes["blosc zstd shuffle"] += len(blosc.encode(ids)) + len(blosc.encode(value_bytes(arrays) + shapes))
    return sizes | {"parquet lists, zstd": parquet_bytes(sequences)}


def parquet_bytes(sequences: list[SequenceArrays]) -> int:
    """All sequences as one file: a row a position, lists of ids and values."""
    columns: dict[str, list[Any]] = {"ids": [], "values": []}
    for arrays in sequences:
        valued = arrays.counts if arrays.head_counts is None else arrays.head_counts
        values = np.frombuffer(value_bytes(arrays), np.uint8)
        columns["ids"] += np.split(arrays.ids, np.cumsum(arrays.counts)[:-1])
        columns["values"] += np.split(values, np.cumsum(valued)[:-1])
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    return buffer.tell()


def unigram_floor(train: list[SequenceArrays], test: list[SequenceArrays], table: FrequencyTable) -> float:
    """Bytes under a static unigram: ids as sets, fitted to `train`; shape and values as this table codes them."""
    seen = np.bincount(np.concatenate([a.ids for a in train]), minlength=VOCAB_SIZE).astype(float)
    discounted = np.where(seen > 0, seen - 0.5, 0.5 * (seen > 0).sum() / max(1, (seen == 0).sum()))
    bits = -np.log2(discounted / seen.sum())
    log2_factorial = np.array([math.lgamma(k + 1) / math.log(2) for k in range(1000)])
    total = 0.0
    for arrays in test:
        groups = [arrays.counts]
        if arrays.head_counts is not None:
            groups = [arrays.head_counts, arrays.counts - arrays.head_counts]
        total += bits[arrays.ids].sum() - sum(log2_factorial[group].sum() for group in groups)
        parts = numbers_of(arrays, table)
        # all lists but label places, tokens and cells
        with_heads = arrays.head_counts is not None
        for nth in [0, 1] if with_heads else [0]:
            total += coded_bits(parts[nth], table)
        total += sum(coded_bits(part, table) for part in parts[5 if with_heads else 4 :])
    return total / 8


def coded_bits(part: Any, table: FrequencyTable) -> float:
    frequencies = table.frequencies[part.contexts, part.classes].astype(np.float64)
    return float(-np.log2(frequencies / TOTAL).sum() + part.widths.sum())


def documents(arrays: SequenceArrays) -> list[SequenceArrays]:
    """The sequence cut into documents of 20 tokens."""
    valued = arrays.counts if arrays.head_counts is None else arrays.head_counts
    ends, value_ends = np.cumsum(arrays.counts), np.cumsum(valued)
    cut = []
    for first in range(0, len(arrays.tokens), _FIXED_LENGTH_DOCUMENT):
        own = slice(first, first + _FIXED_LENGTH_DOCUMENT)
        entries = slice(ends[first] - arrays.counts[first], ends[own][-1])
        values = slice(value_ends[first] - valued[first], value_ends[own][-1])
        heads = None if arrays.head_counts is None else arrays.head_counts[own]
        cut.append(
            replace(
                arrays,
                tokens=arrays.tokens[own],
                counts=arrays.counts[own],
                ids=arrays.ids[entries],
                values=arrays.values[values],
                head_counts=heads,
            )
        )
    return cut


def to_csr(blob: bytes, table: FrequencyTable) -> tuple[Any, ...]:
    arrays = decode(blob, table)
    return np.cumsum(arrays.counts), arrays.ids, entry_weights(arrays)


def measure(name: str, sequences: list[SequenceArrays]) -> dict[str, Any]:
    train, test = sequences[::2], sequences[1::2]
    kind = {"vocab_size": VOCAB_SIZE, "form": test[0].form, "scale": test[0].scale}
    table = FrequencyTable.fit(train, **kind)
    blobs = [encode(arrays, table) for arrays in test]
    for arrays, blob in zip(test, blobs, strict=True):
        check_round_trip(arrays, blob, table)
    headers = [read_header(blob) for blob in blobs]
    positions = sum(header.num_positions for header in headers)
    token_bytes = sum(header.token_bytes for header in headers)
    short = [encode(document, table) for arrays in test for document in documents(arrays)]
    pairs = list(codec_rows.in_pairs(test))
    pair_blobs = [encode(arrays, table) for arrays in pairs]
    pair_positions = sum(len(arrays.tokens) for arrays in pairs)
    bar = BARS[name]

    def speed(function: Callable[[Any], Any], items: list[Any], rounds: int) -> float:
        return round(pair_positions / best_seconds(function, items, rounds) / 1e6, 2)

    return {
        "positions": positions,
        "entries_a_position": round(sum(len(a.ids) for a in test) / positions, 2),
        "label_among_entries": round(sum(int(label_entries(a).sum()) for a in test) / positions, 3),
        "bytes_a_position": {
            "codec, all but tokens": round((sum(map(len, blobs)) - token_bytes) / positions, 2),
            "bar": bar[0],
            "static unigram floor": round(unigram_floor(train, test, table) / positions, 2),
            **{layout: round(size / positions, 2) for layout, size in other_layouts(test).items()},
        },
        "token_bytes_a_position": round(token_bytes / positions, 2),
        "20_token_documents_all_bytes_a_position": round(sum(map(len, short)) / positions, 2),
        "table_bytes": len(table.to_bytes()),
        "million_positions_a_second": {
            "decode": speed(lambda blob: decode(blob, table), pair_blobs, 20),
            "decode to offsets, ids, weights": speed(lambda blob: to_csr(blob, table), pair_blobs, 20),
            "decode bar": bar[1],
            "encode": speed(lambda arrays: encode(arrays, table), pairs, 3),
            "encode bar": bar[2],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--top-rows", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    paths = sorted(options.rows.glob("*.npz"))
    if len(paths) < 4:
        raise SystemExit(f"{options.rows} holds {len(paths)} rows; at least 4 .npz files were wanted.")
    rows = [dict(np.load(path)) for path in paths]
    cases = {
        "random-sampling-50": [codec_rows.random_sampling(row, nth) for nth, row in enumerate(rows)],
        "threshold-18": [codec_rows.threshold(row, nth, 18) for nth, row in enumerate(rows)],
        "threshold-20": [codec_rows.threshold(row, nth, 20) for nth, row in enumerate(rows)],
    }
    notes = [f"{codec_rows.joined // 2} positions of the threshold rows had an id twice; it was joined."]
    if options.top_rows is None:
        notes.append("top-k was not measured: --top-rows was not given (make them with bench/codec_rows.py).")
    else:
        found = [path for path in paths if (options.top_rows / path.name).exists()]
        notes.append(f"top-k was measured on {len(found)} of {len(paths)} sequences.")
        cases["top-k-50"] = [
            codec_rows.top_k(np.load(path)["tokens"], dict(np.load(options.top_rows / path.name)), 255)
            for path in found
        ]
    results: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "notes": notes}
    for name, sequences in cases.items():
        results[name] = measure(name, sequences)
    text = json.dumps(results, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
