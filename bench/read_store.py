"""Reading one sequence at random: our reader against stock zarr-python, checked equal first, as ratios of one run.

python bench/read_store.py [--sequences 10000] [--seq-len 2048] [--reads 2000] [--json bench/results/read_store.json]

Read is one ranged read and the checksum over all of the blob; decoded is that, and everything decoded and checked, to
CSR tensors. Bars: 0.15 and 0.5 ms.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import google_crc32c
import numpy as np
import torch
import zarr

from logitstore.samplers import RandomSampling, Threshold
from logitstore.store import create_store, open_store
from logitstore.targets import Sampler

#: of the teacher: the factor of its logits
SURENESS = 1.45


def make_store(path: Path, sampler: Sampler, sequences: int, seq_len: int, vocab_size: int = 32_000) -> None:
    """Write sequences of a Zipf-like teacher that is about as sure as a real one (12.6 and 7.9 entries a position).

    A few are made and repeated, as only size counts.
    """
    generator = torch.Generator().manual_seed(0)
    zipf = -torch.arange(1, vocab_size + 1).log()
    made = []
    for index in range(4):
        noise = torch.randn(seq_len, vocab_size, generator=generator)
        made.append(sampler(SURENESS * (1.2 * zipf + 2 * noise), index=index))
    with create_store(path, vocab_size=vocab_size, sampler=sampler) as writer:
        for index in range(sequences):
            writer.append(np.arange(seq_len) % vocab_size, made[index % 4])


def median_ms(function, indices) -> float:
    times = []
    for index in indices:
        begin = time.perf_counter()
        function(index)
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=10_000)
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--reads", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {"machine": platform.processor() or platform.machine(), "sequences": options.sequences}
    for sampler in (Threshold(20), RandomSampling(50)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "store"
            make_store(path, sampler, options.sequences, options.seq_len)
            results[f"{sampler.name}-{sampler.draws}"] = measure(path, options)
    text = json.dumps(results, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


def measure(path: Path, options: argparse.Namespace) -> dict[str, float]:
    store = open_store(path)
    array = zarr.open_group(path, mode="r")["sequences"]
    indices = np.random.default_rng(0).integers(0, options.sequences, options.reads).tolist()
    for index in indices[:20]:
        assert array[index : index + 1][0] == store.read_blob(index), "the two readers disagree"
        assert store[index].targets.num_positions == options.seq_len
    ours = median_ms(lambda index: google_crc32c.value(store.read_blob(index)), indices)
    theirs = median_ms(lambda index: google_crc32c.value(array[index : index + 1][0]), indices[:400])
    decoded = median_ms(store.__getitem__, indices)
    totals = store.manifest["sealed"]["totals"]
    return {
        "entries_a_position": round(totals["entries"] / totals["positions"], 2),
        "read_and_checksummed_ms": round(ours, 4),
        "zarr_python_ms": round(theirs, 4),
        "ours_over_zarr_python": round(ours / theirs, 3),
        "read_checked_and_decoded_ms": round(decoded, 4),
        "million_positions_per_s": round(options.seq_len / decoded / 1e3, 2),
    }


if __name__ == "__main__":
    main()
