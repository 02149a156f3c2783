"""Everything that only a GPU can tell, in one command of at most 9 minutes that needs no network.

python bench/gpu.py [--json FILE] [--only PART ...] [--dry-run]

Each part is a process with a limit of time: one that fails, hangs or corrupts the device is reported, and the next one
runs. Prints one table, writes one JSON. Exits with 0, with 1 where a check or a part failed, with 2 where there is no
GPU. A dry run goes through the parts in this process, on the CPU with tiny sizes: it shows that they run, no more.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

LIMIT_S = 530.0
_ROW = "ROW "
_LIBRARIES = ("torch", "triton", "numpy", "transformers", "liger-kernel", "cut-cross-entropy")


@dataclass(frozen=True)
class Part:
    """A function of bench.gpu_parts that yields rows, and the most seconds it may take, compilation included."""

    name: str
    function: str
    limit_s: float


#: in order of worth: what comes last is lost first where time runs out
PARTS = (
    Part("correctness", "correctness.check_everything", 100),
    Part("rows", "rows.measure_rows", 80),
    Part("l2", "rows.measure_l2", 35),
    Part("linear", "linear.measure_linear", 130),
    Part("build-side", "build_side.measure_build_side", 50),
    Part("repeats", "correctness.check_repeats", 30),
    Part("training", "training.measure_training", 110),
    Part("racecheck", "", 60),
)


def rows_of(part: Part, *, dry: bool) -> list[dict[str, Any]]:
    """Run a part in this process; print its rows as they come, and return them."""
    from bench.gpu_parts import sizes

    module, name = part.function.split(".")
    rows = []
    function = getattr(importlib.import_module(f"bench.gpu_parts.{module}"), name)
    for found in function(sizes.DRY if dry else sizes.Sizes()):
        rows.append({"part": part.name} | found)
        print(_ROW + json.dumps(rows[-1]), flush=True)
    return rows


def run_apart(part: Part, limit_s: float) -> list[dict[str, Any]]:
    """Run a part in a process of its own; return its rows, and a last one where it failed or was cut."""
    command = [sys.executable, str(Path(__file__)), "--part", part.name]
    if part.name == "racecheck":
        tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
        if tool is None:
            return [{"part": part.name, "case": "compute-sanitizer is not installed", "skipped": True}]
        command = [tool, "--tool", "racecheck", "--error-exitcode", "9", sys.executable, str(Path(__file__))]
        command += ["--part", "racecheck-target"]
    begin = time.monotonic()
    # a group of its own, so that what the part started ends with it
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
        failed = f"exit code {process.returncode}" if process.returncode else ""
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        failed = f"cut after {limit_s:.0f} s"
    lines = output.splitlines()
    rows = [json.loads(line.removeprefix(_ROW)) for line in lines if line.startswith(_ROW)]
    end = {"part": part.name, "case": "seconds", "seconds": round(time.monotonic() - begin, 1)}
    if failed:
        end |= {"failed": failed, "tail": "\n".join(line for line in lines if not line.startswith(_ROW))[-2000:]}
    return [*rows, end]


def racecheck_target() -> None:
    """Run every kernel once, small: what compute-sanitizer watches."""
    from bench.gpu_parts import correctness, sizes

    small = sizes.Sizes(row_positions=4, vocabularies=(9_000,), repeats=2)
    for found in correctness.check_repeats(small):
        print(_ROW + json.dumps({"part": "racecheck"} | found), flush=True)


def describe(*, dry: bool) -> dict[str, Any]:
    """Return versions, device and git revision."""
    import torch

    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = None
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True)
    return {
        "device": "cpu, interpreted (dry run)" if dry else torch.cuda.get_device_name(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "versions": versions,
        "revision": (git.stdout.strip() + ("+changes" if changed.stdout.strip() else "")) or None,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = ["| part | case | ms | what follows |", "|---|---|---|---|"]
    for found in rows:
        rest = {key: value for key, value in found.items() if key not in ("part", "case", "ms", "tail")}
        told = ", ".join(f"{key} {value}" for key, value in rest.items())
        lines.append(f"| {found['part']} | {found['case']} | {found.get('ms', '')} | {told} |")
    return "\n".join(lines)


def run_all(parts: list[Part], *, dry: bool) -> list[dict[str, Any]]:
    """Run the parts within the limit."""
    end, rows = time.monotonic() + LIMIT_S, []
    for part in parts:
        left = end - time.monotonic()
        if dry:
            rows += rows_of(part, dry=True) if part.function else []
        elif left < 10:
            rows.append({"part": part.name, "case": "no time was left", "failed": "not run"})
        else:
            rows += run_apart(part, min(part.limit_s, left))
    return rows


def main() -> int:
    """Run, print and write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="by default bench/results/gpu.json; a dry run writes none")
    parser.add_argument("--only", action="append", choices=[part.name for part in PARTS])
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.dry_run:
        # before the first import of Triton
        os.environ["TRITON_INTERPRET"] = "1"
    import torch

    if not options.dry_run and not torch.cuda.is_available():
        print("bench/gpu.py needs a CUDA device, and torch finds none; --dry-run shows that the parts run.")
        return 2
    if options.part == "racecheck-target":
        racecheck_target()
        return 0
    if options.part:
        rows_of(next(part for part in PARTS if part.name == options.part), dry=False)
        return 0
    about = describe(dry=options.dry_run)
    rows = run_all([p for p in PARTS if not options.only or p.name in options.only], dry=options.dry_run)
    print(json.dumps(about, indent=1), table(rows), sep="\n")
    path = options.json or (None if options.dry_run else ROOT / "bench" / "results" / "gpu.json")
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    return int(any("failed" in found or found.get("ok") is False for found in rows))


if __name__ == "__main__":
    sys.exit(main())
