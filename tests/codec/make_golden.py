"""Write the golden blobs of format 2: `python -m tests.codec.make_golden`, by hand, once.

Each case is a blob, `<case>.bin`, the frequency table it was written with, `<case>.table`, and what it holds,
`<case>.json`; floats stand there by their bits. A file that exists is never written again: old blobs must stay
readable.
"""

import json
from pathlib import Path

import numpy as np
import pcodec

from logitstore.codec.arrays import STATISTICS, SequenceArrays, WeightForm
from logitstore.codec.coding import encode
from logitstore.codec.table import FrequencyTable
from tests.codec.coded_sequences import build, split_evenly

FOLDER = Path(__file__).parent / "golden" / "format-2"

_VOCAB_SIZE = 5003


def golden_arrays():
    """Fixed arrays, without a random generator whose stream may change."""
    positions = [([], [])] + [
        (
            [i for i in ((7 * t) % 50, 100 + t) if t % 4],
            [(t * t + 31 * k * k) % 600 + 600 * (k + 1) for k in range(t % 7)],
        )
        for t in range(1, 200)
    ]
    sizes = [len(head) + len(tail) for head, tail in positions]
    position, entry = np.arange(len(positions)), np.arange(sum(sizes))
    statistics = {name: np.sqrt(position * (i + 1)).astype(np.float32) for i, name in enumerate(STATISTICS)}
    # every other token is an entry of the position before
    tokens = [0] + [100 + t if t % 2 else (t * t) % 600 + 600 for t in range(1, len(positions))]
    numerators = [n for head, tail in positions if head for n in split_evenly(40 if tail else 64, len(head))]
    counts = [n for size in sizes if size for n in split_evenly(50, size)]
    small = [([3, 9], [_VOCAB_SIZE - 1]), ([], []), ([0], [])]
    return {
        "small-counts": build(WeightForm.COUNTS, small, [30, 19, 1, 50], tokens=[2, 9, 4000]),
        "small-head-grid": build(
            WeightForm.HEAD_GRID,
            small,
            [40, 20, 64],
            tokens=[2, _VOCAB_SIZE - 1, 7],
            statistics={"entropy": np.array([0.5, np.nan, 0.0], np.float32)},
        ),
        "counts": build(WeightForm.COUNTS, positions, counts, tokens=tokens, statistics=statistics),
        "probabilities": build(WeightForm.PROBABILITIES, positions, 1 / (1 + entry), tokens=tokens),
        "float32": build(WeightForm.FLOAT32, positions, (entry - 700.0) / (1 + entry % 17), tokens=tokens),
        "head-grid": build(
            WeightForm.HEAD_GRID,
            positions,
            numerators,
            tokens=tokens,
            statistics={"entropy": statistics["entropy"]},
        ),
        "no-tokens": build(WeightForm.FLOAT32, [], []),
    }


def golden_tables(arrays):
    """A table for each case, fitted to the case itself; the small ones have seen nothing."""
    return {
        name: FrequencyTable.fit(
            [] if name.startswith("small") else [case], vocab_size=_VOCAB_SIZE, form=case.form, scale=case.scale
        )
        for name, case in arrays.items()
    }


def to_json(arrays):
    def bits(array):
        return array.view(np.uint32).tolist() if array.dtype == np.float32 else array.tolist()

    return {
        "form": arrays.form.name,
        "scale": arrays.scale,
        "tokens": arrays.tokens.tolist(),
        "counts": arrays.counts.tolist(),
        "head_counts": None if arrays.head_counts is None else arrays.head_counts.tolist(),
        "ids": arrays.ids.tolist(),
        "values": bits(arrays.values),
        "statistics": {name: bits(statistic) for name, statistic in arrays.statistics.items()},
    }


def from_json(case):
    form = WeightForm[case["form"]]
    values = np.array(case["values"], np.uint32)
    return SequenceArrays(
        tokens=np.array(case["tokens"], np.int32),
        counts=np.array(case["counts"], np.int64),
        ids=np.array(case["ids"], np.int32),
        form=form,
        values=values.view(np.float32) if form in (WeightForm.PROBABILITIES, WeightForm.FLOAT32) else values,
        scale=case["scale"],
        head_counts=None if case["head_counts"] is None else np.array(case["head_counts"], np.int64),
        statistics={name: np.array(bits, np.uint32).view(np.float32) for name, bits in case["statistics"].items()},
    )


def write_golden(folder=FOLDER):
    """Write every case into `folder`; raises FileExistsError, before writing anything, where one is there."""
    files = {}
    arrays = golden_arrays()
    for name, table in golden_tables(arrays).items():
        files[folder / f"{name}.table"] = table.to_bytes()
        files[folder / f"{name}.bin"] = encode(arrays[name], table)
        stored = {"pcodec": pcodec.__version__} | to_json(arrays[name])
        files[folder / f"{name}.json"] = (json.dumps(stored, separators=(",", ":")) + "\n").encode()
    for path in files:
        if path.exists():
            raise FileExistsError(f"{path} is there already; golden blobs are written once and never change")
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        path.write_bytes(content)


if __name__ == "__main__":
    write_golden()
