"""The GPU benchmark says what it needs, goes through its parts without a GPU, and survives a part that fails."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "bench" / "gpu.py"
pytest.importorskip("triton")


def run(*arguments):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRITON_")}
    environment["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, str(BENCH), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so_and_exits_with_2():
    result = run()
    assert result.returncode == 2
    assert "needs a CUDA device" in result.stdout


def test_a_dry_run_goes_through_every_part_and_writes_one_json(tmp_path):
    path = tmp_path / "gpu.json"
    result = run("--dry-run", "--json", str(path))
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    written = json.loads(path.read_text())
    assert set(written["versions"]) >= {"torch", "triton"}
    assert written["device"]
    assert written["revision"]
    parts = {row["part"] for row in written["rows"]}
    assert parts == {"correctness", "rows", "l2", "linear", "build-side", "repeats", "training"}
    assert all(row.get("ok", True) for row in written["rows"])
    for part in parts:
        assert f"| {part} |" in result.stdout


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("gpu_bench", BENCH)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_bench", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("script", "limit_s", "failed"),
    [
        ('print(\'ROW {"case": "first"}\', flush=True); import time; time.sleep(60)', 4, "cut after 4 s"),
        ("print('ROW {\"case\": \"first\"}'); raise SystemExit('out of memory')", 60, "exit code 1"),
    ],
    ids=["hangs", "fails"],
)
def test_a_part_that_fails_or_hangs_is_reported_with_the_rows_it_had(
    bench, tmp_path, monkeypatch, script, limit_s, failed
):
    stand_in = tmp_path / "part.py"
    stand_in.write_text(script)
    monkeypatch.setattr(bench, "__file__", str(stand_in))
    rows = bench.run_apart(bench.PARTS[0], limit_s)
    assert rows[0] == {"case": "first"}
    assert rows[-1]["failed"] == failed
    assert rows[-1]["part"] == "correctness"


def test_the_parts_end_within_nine_minutes(bench):
    assert bench.LIMIT_S <= 540 - 10
    assert len({part.name for part in bench.PARTS}) == len(bench.PARTS)
