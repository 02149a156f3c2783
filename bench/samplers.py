"""Samplers on a real teacher: variance and entries, the angle of a batch's gradient, and time, in one run.

python bench/samplers.py [--text pydoc|newton|FILE] [--positions 4096] [--json bench/results/samplers.json]

The teacher is Gemma 3 270M of logitstore[demo]. Variances are closed forms (logitstore.samplers.variance), so no
draw enters the comparison. The student of the gradients is the teacher with 5 % Gaussian noise on its weights.
"""

# T positions, V vocabulary, D hidden width

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from texts import PINNED, load_text, sequences_of
from torch import Tensor

from logitstore.samplers import RandomSampling, Threshold, TopK
from logitstore.samplers.distribution import probability_blocks
from logitstore.samplers.variance import random_sampling_variance, threshold_variances

SEQ_LEN = 1024
BATCH = 512
#: positions whose logits exist at once
ROWS = 64
THRESHOLD_DRAWS = (4, 6, 8, 12, 16, 18, 20, 25, 33, 50, 75, 120, 200, 400, 600)
RANDOM_DRAWS = (5, 8, 13, 20, 32, 50, 80, 120, 200, 400, 700)
GRID_DRAWS = (8, 12, 16, 20, 25, 33, 50, 100, 200)
GRIDS = (16, 32, 64, 128, 256, 512)
BUDGETS = (4, 5, 6, 8, 10, 12.6, 16, 20, 25, 32, 40, 50, 60)


def load(folder: Path) -> tuple[Any, Any]:
    """Return the teacher and its tokenizer."""
    from logitstore.demo.teacher import packaged_teacher
    from logitstore.teachers import inspect_teacher, load_teacher, load_tokenizer

    place = packaged_teacher(folder, echo=lambda text: print(text, file=sys.stderr))
    info = inspect_teacher(place.model, gguf_file=place.gguf_file)
    teacher = load_teacher(place.model, gguf_file=place.gguf_file, dtype="float32", device="cpu", info=info)
    return teacher, load_tokenizer(place.model, gguf_file=place.gguf_file, info=info)


def noisy_copy(model: Any, share: float = 0.05) -> Any:
    """Return the model with Gaussian noise of `share` of each weight tensor's own deviation."""
    student = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for weight in student.parameters():
        weight.data += share * weight.data.std() * torch.randn(weight.shape, generator=generator)
    return student


def hidden_states(model: Any, tokens: np.ndarray) -> Tensor:
    """Return [T, D] float32, T over all sequences."""
    with torch.inference_mode():
        return torch.cat([model.model(input_ids=torch.tensor(row[None])).last_hidden_state[0] for row in tokens])


class Measurement:
    """What is summed up over positions."""

    def __init__(self, vocab_size: int) -> None:
        self.samplers = [Threshold(n) for n in THRESHOLD_DRAWS] + [RandomSampling(n) for n in RANDOM_DRAWS]
        self.entries: dict[Any, float] = defaultdict(float)
        self.variance: dict[Any, float] = defaultdict(float)
        self.plain: dict[int, float] = defaultdict(float)
        self.rounded: dict[tuple[int, int], float] = defaultdict(float)
        self.angles: dict[Any, list[tuple[float, float]]] = defaultdict(list)
        self.entropy = 0.0
        self.vocab_size = vocab_size

    def add(self, logits: Tensor, sequence: int, position: int) -> dict[Any, Tensor]:
        """Count one block of positions; return the sum of each sampler's weights, [V] float64."""
        weights = {}
        for sampler in self.samplers:
            targets = sampler(logits, seed=1, index=sequence, first_position=position)
            self.entries[sampler] += targets.num_entries
            summed = torch.zeros(self.vocab_size, dtype=torch.float64)
            weights[sampler] = summed.index_add_(0, targets.ids.long(), targets.weights.double())
        for _, block in probability_blocks(logits):
            self.entropy -= float(torch.xlogy(block, block).sum(dtype=torch.float64))
            for sampler in self.samplers:
                self.variance[sampler] += float(variance_of(sampler, block).sum())
            for draws in GRID_DRAWS:
                plain, *rounded = threshold_variances(block, draws, [None, *GRIDS]).sum(dim=1).tolist()
                self.plain[draws] += plain
                for grid, variance in zip(GRIDS, rounded, strict=True):
                    self.rounded[draws, grid] += variance
        return weights

    def add_angles(self, full: Tensor, sampled: dict[Any, Tensor], student: Tensor, head: Tensor) -> None:
        """Compare a batch's mean gradients; all [V] float64, `head` [V, D]."""
        for sampler, weights in sampled.items():
            # the weights sum to 1, so the student's part is the same in both
            exact, found = student - full, student - weights
            in_hidden = angle(head.T.double() @ exact, head.T.double() @ found)
            self.angles[sampler].append((angle(exact, found), in_hidden))


def variance_of(sampler: Threshold | RandomSampling, block: Tensor) -> Tensor:
    if isinstance(sampler, Threshold):
        return threshold_variances(block, sampler.draws, [sampler.head_grid])[0]
    return random_sampling_variance(block, sampler.draws)


def angle(first: Tensor, second: Tensor) -> float:
    """Return the angle in degrees."""
    cosine = torch.dot(first, second) / (first.norm() * second.norm())
    return float(torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))))


def measure(teacher: Any, tokens: np.ndarray) -> Measurement:
    """Run teacher and student over the sequences and sample every position with every sampler."""
    student = noisy_copy(teacher.model)
    states = hidden_states(teacher.model, tokens), hidden_states(student, tokens)
    heads = teacher.model.lm_head.weight.detach(), student.lm_head.weight.detach()
    result = Measurement(len(heads[0]))
    per_batch: dict[Any, Tensor] = {}
    full, own = (torch.zeros(result.vocab_size, dtype=torch.float64) for _ in range(2))
    for start in range(0, len(states[0]), ROWS):
        with torch.inference_mode():
            logits, student_logits = (
                state[start : start + ROWS] @ head.T for state, head in zip(states, heads, strict=True)
            )
        full += torch.softmax(logits, -1).sum(0, dtype=torch.float64)
        own += torch.softmax(student_logits, -1).sum(0, dtype=torch.float64)
        for sampler, weights in result.add(logits, *divmod(start, SEQ_LEN)).items():
            per_batch[sampler] = per_batch.get(sampler, 0) + weights
        if (start + ROWS) % BATCH == 0:
            result.add_angles(full, per_batch, own, heads[1])
            per_batch = {}
            full.zero_()
            own.zero_()
        print(f"\r{start + ROWS} of {len(states[0])} positions", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return result


def time_shares(teacher: Any, tokens: np.ndarray) -> dict[str, list[float]]:
    """Return each sampler's time over the teacher's for every sequence, taken in turn."""
    samplers = [Threshold(20), RandomSampling(50), TopK(50)]
    for sampler in samplers:  # what is set up once does not count
        sampler(torch.zeros(ROWS, teacher.logits_width))
    shares: dict[str, list[float]] = {sampler.name: [] for sampler in samplers}
    for row in tokens:
        begin = time.perf_counter()
        blocks = list(teacher.logit_blocks([row]))
        forward = time.perf_counter() - begin
        for sampler in samplers:
            begin = time.perf_counter()
            for _, position, logits in blocks:
                sampler(logits, first_position=position)
            shares[sampler.name].append((time.perf_counter() - begin) / forward)
        del blocks
    return shares


def interpolate(points: Iterator[tuple[float, float]], at: float) -> float:
    """Interpolate y at x, linearly in both logarithms; the points' order does not matter."""
    x, y = (np.log(column) for column in zip(*sorted(points), strict=True))
    if not x[0] <= np.log(at) <= x[-1]:
        return float("nan")
    return float(np.exp(np.interp(np.log(at), x, y)))


def summary(result: Measurement, positions: int) -> dict[str, Any]:
    """Return the figures of the table."""
    curves: dict[str, list[dict[str, float]]] = defaultdict(list)
    for sampler in result.samplers:
        angles = [statistics.fmean(column) for column in zip(*result.angles[sampler], strict=True)]
        curves[sampler.name].append(
            {
                "draws": sampler.draws,
                "entries": result.entries[sampler] / positions,
                "variance": result.variance[sampler] / positions,
                "angle_logits": angles[0],
                "angle_hidden": angles[1],
            }
        )

    def curve(name: str, x: str, y: str) -> Iterator[tuple[float, float]]:
        return ((point[x], point[y]) for point in curves[name])

    (published,) = (point for point in curves["random-sampling"] if point["draws"] == 50)
    entries = interpolate(curve("threshold", "variance", "entries"), published["variance"])
    variance = interpolate(curve("threshold", "entries", "variance"), published["entries"])
    budgets = {
        budget: {
            name: {of: interpolate(curve(name, "entries", of), budget) for of in ("angle_logits", "angle_hidden")}
            for name in curves
        }
        for budget in BUDGETS
    }
    return {
        "positions": positions,
        "entropy": result.entropy / positions,
        "curves": curves,
        "random_sampling_50": published,
        "entries_at_equal_variance": entries / published["entries"],
        "variance_at_equal_entries": variance / published["variance"],
        "angles": budgets,
        "grid_adds": {n: {g: result.rounded[n, g] / result.plain[n] - 1 for g in GRIDS} for n in GRID_DRAWS},
    }


def report(found: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{found['text']}: {found['positions']} positions, mean entropy {found['entropy']:.2f} nats")
    print(
        f"{'sampler':16} {'draws':>5} {'entries':>8} {'variance':>9} {'angle of the mean gradient: logits, hidden':>44}"
    )
    for name, points in found["curves"].items():
        for p in points:
            print(
                f"{name:16} {p['draws']:5} {p['entries']:8.2f} {p['variance']:9.5f} {p['angle_logits']:35.2f}° "
                f"{p['angle_hidden']:6.2f}°"
            )
    print(
        f"entries at the variance of random-sampling n = 50: {found['entries_at_equal_variance']:.3f} of its (bar .60)"
    )
    print(f"variance at its entries: {found['variance_at_equal_entries']:.3f} of its (bar .36)")
    for budget, by_name in found["angles"].items():
        pairs = ", ".join(
            f"{of.removeprefix('angle_')} {by_name['threshold'][of]:.2f}° against {by_name['random-sampling'][of]:.2f}°"
            for of in ("angle_logits", "angle_hidden")
        )
        print(f"angle at {budget} entries, threshold against random-sampling: {pairs}")
    for draws, grids in found["grid_adds"].items():
        added = ", ".join(f"1/{grid} {100 * share:.2f} %" for grid, share in grids.items())
        print(f"variance that the head's grid adds at {draws} draws: {added}")
    for name, shares in found["time_over_forward"].items():
        print(f"time over the teacher's forward pass, {name}: median {100 * statistics.median(shares):.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="pydoc")
    parser.add_argument("--positions", type=int, default=4096)
    parser.add_argument("--teacher", type=Path, help="folder for the teacher's file, kept; a temporary one by default")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.positions < SEQ_LEN or options.positions % SEQ_LEN:
        parser.error(f"--positions is {options.positions}; a multiple of {SEQ_LEN} was wanted.")
    with tempfile.TemporaryDirectory() as folder:
        teacher, tokenizer = load(options.teacher or Path(folder))
        tokens = sequences_of(load_text(options.text), tokenizer, options.positions, SEQ_LEN)
    tokens_sha256 = hashlib.sha256(tokens.tobytes()).hexdigest()
    if options.positions == 4096 and PINNED.get(options.text, tokens_sha256) != tokens_sha256:
        print(f"note: {options.text} has other tokens here than where it was pinned (another Python?)", file=sys.stderr)
    shares = time_shares(teacher, tokens)
    found = {
        "text": options.text,
        "tokens_sha256": tokens_sha256,
        **summary(measure(teacher, tokens), tokens.size),
        "time_over_forward": shares,
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    report(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
