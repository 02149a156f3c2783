"""Reading one sequence at random: our reader against stock zarr-python, checked equal first, as ratios of one run.

python bench/read_store.py [--sequences 2000] [--seq-len 2048] [--reads 400]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import zarr

from logitstore.samplers import RandomSampling
from logitstore.store import create_store, open_store


def make_store(path: Path, sequences: int, seq_len: int, vocab_size: int = 32_000) -> None:
    """Write sequences whose entries come from a Zipf-like teacher; a few are made and repeated, as only size counts."""
    sampler = RandomSampling(50)
    generator = torch.Generator().manual_seed(0)
    zipf = -torch.arange(1, vocab_size + 1).log()
    made = []
    for index in range(4):
        noise = torch.randn(seq_len, vocab_size, generator=generator)
        made.append(sampler(1.2 * zipf + 2 * noise, index=index))
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
    parser.add_argument("--sequences", type=int, default=2000)
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--reads", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        make_store(path, options.sequences, options.seq_len)
        store = open_store(path)
        array = zarr.open_group(path, mode="r")["sequences"]
        indices = np.random.default_rng(0).integers(0, options.sequences, options.reads).tolist()
        for index in indices[:20]:
            assert array[index : index + 1][0] == store.read_blob(index), "the two readers disagree"
        ours = median_ms(store.read_blob, indices)
        theirs = median_ms(lambda index: array[index : index + 1][0], indices)
        decoded = median_ms(store.__getitem__, indices)
    result = {
        "machine": platform.processor() or platform.machine(),
        "read_blob_ms": round(ours, 4),
        "zarr_python_ms": round(theirs, 4),
        "ours_over_zarr_python": round(ours / theirs, 3),
        "read_checked_and_decoded_ms": round(decoded, 4),
        "million_positions_per_s": round(options.seq_len / decoded / 1e3, 2),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
