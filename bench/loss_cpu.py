"""The losses on the CPU against torch's cross-entropy, forward and backward: time as ratios of one run, and memory.

python bench/loss_cpu.py [--quick] [--rounds 3] [--only logits|linear] [--json bench/results/loss_cpu.json]

Every case is a process of its own with one thread, one at a time: it checks loss and gradient against float64 first,
then takes turns between the ways, and compares the best time of each; the JSON has them all. Time is the process's
processor time, system calls included: with one thread that is the time on the clock of a machine that does nothing
else. Memory is the peak beyond inputs and gradients, of a process that runs one way once. The largest case needs 9 GB
for torch's cross-entropy.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch.nn import functional

import logitstore
from logitstore.losses import linear_sparse_kd_loss, sparse_kd_loss
from logitstore.targets import SparseTargets

Result = TypeVar("Result")
SEED = 0
#: over logits, more rounds than were asked for, to tell 2 % apart on a machine that others use too
LEAST_S, LEAST_ROUNDS = 30.0, 25
WAYS = ("cross_entropy", "hard", "k12", "k50")
#: what is reached for: times as shares of cross_entropy's and of our own hard-label path's, and memory
BARS = {
    "logits": {"over_torch": 0.6, "over_hard": 1.02, "extra_mb": 64.0},
    "linear": {"over_torch": 1.0, "memory": 0.35},
}


@dataclass(frozen=True)
class Case:
    """`kind` logits or linear; T positions, V vocabulary, D hidden width (linear)."""

    kind: str
    dtype: str
    T: int
    V: int
    D: int = 0

    @property
    def name(self) -> str:
        width = f" D={self.D}" if self.D else ""
        return f"{self.kind} {self.dtype} T={self.T} V={self.V}{width}"


CASES = [
    *(Case("logits", dtype, 2048, V) for V in (32_000, 262_144) for dtype in ("float32", "bfloat16")),
    Case("linear", "float32", 2048, 32_000, 1024),
    Case("linear", "float32", 1024, 262_144, 512),
]
QUICK = [Case("logits", "bfloat16", 64, 2000), Case("linear", "float32", 512, 4000, 32)]


class Problem:
    """The inputs of a case and the ways to its loss."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(SEED)
        self.case, dtype = case, getattr(torch, case.dtype)
        self.labels = torch.randint(0, case.V, (case.T,))
        if case.kind == "logits":
            self.inputs = [torch.empty(case.T, case.V, dtype=dtype).normal_().mul_(2)]
        else:
            self.inputs = [
                torch.empty(case.T, case.D, dtype=dtype).normal_(),
                torch.empty(case.V, case.D, dtype=dtype).normal_().mul_(2 / case.D**0.5),
            ]
        for tensor in self.inputs:
            tensor.requires_grad_()
        hard = SparseTargets(torch.arange(case.T + 1), self.labels.int(), torch.ones(case.T))
        self.targets = {"hard": hard, "k12": self._targets(12), "k50": self._targets(50)}

    def _targets(self, k: int) -> SparseTargets:
        """K entries in each position, spread over the vocabulary, ascending and unique."""
        T, V = self.case.T, self.case.V
        ids = torch.randint(0, V // k, (T, k)) + torch.arange(k) * (V // k)
        weights = torch.rand(T, k)
        return SparseTargets(torch.arange(T + 1) * k, ids.int().flatten(), (weights / weights.sum(1, True)).flatten())

    def loss(self, way: str) -> torch.Tensor:
        if way == "cross_entropy":
            return functional.cross_entropy(self._logits(self.inputs), self.labels)
        fused = sparse_kd_loss if self.case.kind == "logits" else linear_sparse_kd_loss
        return fused(*self.inputs, self.targets[way])

    @staticmethod
    def _logits(inputs: list[torch.Tensor]) -> torch.Tensor:
        return inputs[0] if len(inputs) == 1 else functional.linear(*inputs)

    def run(self, way: str) -> float:
        """Take loss and gradients once, and return the seconds of processor time it took."""
        for tensor in self.inputs:
            tensor.grad = None
        begin = time.process_time()
        self.loss(way).backward()
        return time.process_time() - begin

    def check(self) -> None:
        """Compare loss and gradients of a few positions with dense float64."""
        rows = min(8, self.case.T)
        fused = sparse_kd_loss if self.case.kind == "logits" else linear_sparse_kd_loss
        near = {"float32": 1e-5, "bfloat16": 2.0**-8}[self.case.dtype]
        few = [self.inputs[0][:rows], *self.inputs[1:]]
        for way in WAYS[1:]:
            ours = [tensor.detach().requires_grad_() for tensor in few]
            exact = [tensor.detach().double().requires_grad_() for tensor in few]
            targets = self.targets[way].slice(0, rows)
            loss = fused(*ours, targets)
            wanted = functional.cross_entropy(self._logits(exact), targets.to_dense(self.case.V).double())
            torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-5)
            pairs = zip(torch.autograd.grad(loss, ours), torch.autograd.grad(wanted, exact), strict=True)
            for found, theirs in pairs:
                largest = float(theirs.abs().max())
                torch.testing.assert_close(found.double(), theirs, rtol=near, atol=near * largest)


def time_case(case: Case, rounds: int, least_s: float) -> dict[str, list[float]]:
    """Return the milliseconds of each way, `rounds` times and more.

    Torch's way and our own three take turns until each side has had `least_s` seconds. Ours are to be told apart by
    2 %, and come in another order each time: what one leaves of memory must not always help, or hinder, the same other.
    """
    problem = Problem(case)
    problem.check()
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for way in WAYS[1:]:
        problem.run(way)  # sets up what is used again
    spent, turn = dict.fromkeys((WAYS[:1], WAYS[1:]), 0.0), 0
    while turn < rounds or min(spent.values()) < least_s:
        for side in spent:
            begin = time.monotonic()
            for place in range(len(side) if turn < rounds or spent[side] < least_s else 0):
                way = side[(turn + place) % len(side)]
                times[way].append(problem.run(way))
            spent[side] += time.monotonic() - begin
        turn += 1
    return {way: [round(1e3 * taken, 2) for taken in found] for way, found in times.items()}


def measure_memory(case: Case, way: str) -> float:
    """Return the peak of memory beyond inputs and their gradients, in MB."""
    problem = Problem(case)
    small = Problem(Case(case.kind, case.dtype, 2, 100, min(case.D, 2)))
    small.run(way)  # what torch sets up on first use
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    problem.run(way)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (after - before) / 2**10 - sum(tensor.nbytes for tensor in problem.inputs) / 2**20


def in_a_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call `function` in a process of its own, whose memory is gone with it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as processes:
        return processes.submit(function, *arguments).result()


def judge(case: Case, turns: dict[str, list[float]], extra_mb: dict[str, float]) -> dict[str, object]:
    """Return the best times of a case, their ratios, which bars they miss, and every time that was taken."""
    milliseconds = {way: min(taken) for way, taken in turns.items()}
    ratios = {
        "over_torch": max(milliseconds[way] for way in ("k12", "k50")) / milliseconds["cross_entropy"],
        "over_hard": max(milliseconds[way] for way in ("k12", "k50")) / milliseconds["hard"],
        "extra_mb": extra_mb["k50"],
        "memory": extra_mb["k50"] / max(extra_mb["cross_entropy"], 1e-9),
    }
    missed = [name for name, bar in BARS[case.kind].items() if ratios[name] > bar]
    return {
        "case": asdict(case),
        "milliseconds": milliseconds,
        "extra_mb": extra_mb,
        "ratios": ratios,
        "missed": missed,
        "turns_milliseconds": turns,
    }


def print_table(results: list[dict]) -> None:
    print(f"{'case':38} {'torch CE':>9} {'hard':>9} {'K=12':>9} {'K=50':>9}  {'/torch':>7} {'/hard':>6}"
          f"  {'extra MB: torch':>15} {'ours':>6}  misses")  # fmt: skip
    for result in results:
        times, memory, ratios = result["milliseconds"], result["extra_mb"], result["ratios"]
        columns = " ".join(f"{times[way]:6.0f} ms" for way in WAYS)
        print(
            f"{Case(**result['case']).name:38} {columns}  {ratios['over_torch']:7.3f} {ratios['over_hard']:6.3f}  "
            f"{memory['cross_entropy']:15.0f} {memory['k50']:6.0f}  {', '.join(result['missed']) or '-'}"
        )
    print(f"bars: over logits {BARS['logits']}, fused linear {BARS['linear']}")


def revision() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small cases that say nothing about speed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["logits", "linear"])
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    run_all(options)


def run_all(options: argparse.Namespace) -> None:
    results = []
    for case in QUICK if options.quick else CASES:
        if options.only in (None, case.kind):
            # over hidden states nothing is to be told apart by 2 %, and a turn takes long
            effort = (options.rounds, 0.0) if case.kind == "linear" else (max(options.rounds, LEAST_ROUNDS), LEAST_S)
            effort = (1, 0.0) if options.quick else effort
            times = in_a_process(time_case, case, *effort)
            memory = {way: in_a_process(measure_memory, case, way) for way in ("cross_entropy", "k50")}
            results.append(judge(case, times, memory))
            print(f"{case.name}: done", file=sys.stderr)
    print_table(results)
    if options.json:
        about = {
            "logitstore": logitstore.__version__, "revision": revision(), "torch": torch.__version__,
            "cpu": cpu_name(), "threads": 1, "quick": options.quick, "bars": BARS, "results": results,
        }  # fmt: skip
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
