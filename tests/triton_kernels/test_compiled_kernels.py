"""The kernels, compiled for an H100 without one, keep their budgets of registers, memory and wide accesses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
from bench.check_kernels import Figures, barrier_in_place, broken
from bench.kernel_cases import Case

ROOT = Path(__file__).parents[2]


def compile_kernels(*arguments):
    # a process of its own: where Triton interprets, it does not compile
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRITON_")}
    command = [sys.executable, "-m", "bench.check_kernels", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    path = tmp_path_factory.mktemp("kernels") / "figures.json"
    result = compile_kernels("--arch", "sm_90", "--default", "--json", str(path))
    assert path.exists(), result.stdout + result.stderr
    return result.returncode, json.loads(path.read_text())


def test_every_kernel_keeps_its_budget_on_sm_90(compiled):
    code, results = compiled
    assert {result["case"]: result["broken"] for result in results if result["broken"]} == {}
    assert code == 0
    assert len(results) >= 16


def test_no_kernel_spills_on_sm_90(compiled):
    assert [result["case"] for result in compiled[1] if result["spills"]] == []
    assert all(0 < result["registers"] <= 255 and result["shared_bytes"] <= 227 << 10 for result in compiled[1])


BUDGET = {
    "registers": 64,
    "amd_registers": 96,
    "shared_bytes": 64,
    "wide_loads": 4,
    "wide_stores": 4,
    "narrow_stores": 2,
}
KEPT = {
    "registers": 64,
    "spills": 0,
    "shared_bytes": 64,
    "wide_loads": 4,
    "wide_stores": 4,
    "narrow_stores": 2,
    "bf16_rounds": True,
    "barrier_in_place": True,
}


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({}, []),
        ({"registers": 65}, ["registers 65 > 64"]),
        ({"spills": 1}, ["spills 1 > 0"]),
        ({"shared_bytes": 65}, ["shared_bytes 65 > 64"]),
        ({"wide_loads": 3}, ["wide_loads 3 < 4"]),
        ({"wide_stores": 0, "narrow_stores": 34}, ["narrow_stores 34 > 2", "wide_stores 0 < 4"]),
        ({"bf16_rounds": False}, ["no rounding to bfloat16"]),
        ({"barrier_in_place": False}, ["no barrier between the row and its entries"]),
    ],
)
def test_each_figure_beyond_its_budget_is_told(found, told):
    assert broken(Figures(**KEPT | found), BUDGET, "sm_90") == told


def test_a_kernel_without_a_budget_is_told():
    assert broken(Figures(**KEPT), None, "sm_90") == ["no budget"]


@pytest.mark.parametrize(
    ("ttgir", "in_place"),
    [
        ("tt.store %a : tensor<64x!tt\nttg.barrier all\ntt.store %b : tensor<16x!tt", True),
        ("tt.store %a : tensor<64x!tt\ngpu.barrier\ntt.store %b : tensor<16x!tt", True),
        ("tt.store %a : tensor<64x!tt\ntt.store %b : tensor<16x!tt", False),
        ("gpu.barrier\ntt.store %a : tensor<64x!tt\ntt.store %b : tensor<16x!tt", False),
        ("tt.store %a : tensor<64x!tt\ntt.store %b : tensor<16x!tt\ngpu.barrier", False),
    ],
)
def test_a_barrier_counts_only_between_the_row_and_its_entries(ttgir, in_place):
    case = Case("", None, {}, {"BLOCK": 64}, 4, fixup_block=16)
    assert barrier_in_place(ttgir, case) == in_place
