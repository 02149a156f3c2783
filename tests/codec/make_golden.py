"""Write the golden blobs of the present format version: `python -m tests.codec.make_golden`, by hand, once a version.

Each case is a blob, `v<version>-<case>.bin`, and what it holds, `v<version>-<case>.json`; floats stand there by their
bits. A file that exists is never written again: old blobs must stay readable.
"""

import json
from pathlib import Path

import numpy as np
import pcodec

from logitstore.codec import FORMAT_VERSION, STATISTICS, SequenceArrays, WeightForm, encode
from tests.codec.sequence_arrays import LAST_ID, build

FOLDER = Path(__file__).parent / "golden"


def golden_cases():
    """Fixed arrays, without a random generator whose stream may change."""
    positions = [([], [])] + [
        ([(7 * t) % 50, 100 + t], [(t * t + 31 * k * k) % 3000 + 3000 * (k + 1) for k in range(t % 7)])
        for t in range(1, 300)
    ]
    num_entries = sum(len(head) + len(tail) for head, tail in positions)
    position, entry = np.arange(len(positions)), np.arange(num_entries)
    statistics = {name: np.sqrt(position * (i + 1)).astype(np.float32) for i, name in enumerate(STATISTICS)}
    tokens = position * position % 1000
    small = [([3, 9], [LAST_ID]), ([], []), ([0], [])]
    return {
        "small-counts": build(WeightForm.COUNTS, small, [30, 19, 1, 50], tokens=[2, 70_000, 2], scale=50),
        "small-head-grid": build(
            WeightForm.HEAD_GRID,
            small,
            [40, 20, 64],
            tokens=[2, 7, LAST_ID],
            scale=64,
            statistics={"entropy": np.array([0.5, np.nan, 0.0], np.float32)},
        ),
        "counts": build(
            WeightForm.COUNTS, positions, 1 + entry % 13 % 5, tokens=tokens, scale=50, statistics=statistics
        ),
        "probabilities": build(WeightForm.PROBABILITIES, positions, 1 / (1 + entry), tokens=tokens),
        "float32": build(WeightForm.FLOAT32, positions, (entry - 700.0) / (1 + entry % 17), tokens=tokens),
        "head-grid": build(
            WeightForm.HEAD_GRID,
            positions,
            np.repeat(1 + position % 32, [len(head) for head, _ in positions]),
            tokens=tokens,
            scale=64,
            statistics={"entropy": statistics["entropy"]},
        ),
        "no-tokens": build(WeightForm.FLOAT32, [], []),
    }


def to_json(arrays):
    def bits(array):
        return array.view(np.uint32).tolist() if array.dtype == np.float32 else array.tolist()

    return {
        "pcodec": pcodec.__version__,
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
    for name, arrays in golden_cases().items():
        files[folder / f"v{FORMAT_VERSION}-{name}.bin"] = encode(arrays)
        text = json.dumps(to_json(arrays), separators=(",", ":"))
        files[folder / f"v{FORMAT_VERSION}-{name}.json"] = (text + "\n").encode()
    for path in files:
        if path.exists():
            raise FileExistsError(f"{path} is there already; golden blobs are written once and never change")
    folder.mkdir(exist_ok=True)
    for path, content in files.items():
        path.write_bytes(content)


if __name__ == "__main__":
    write_golden()
