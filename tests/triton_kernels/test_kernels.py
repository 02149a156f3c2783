"""Runs the kernel cases (cases_*.py) where they can run: in Triton's interpreter, and on a GPU where there is one.

Each file of cases gets a process of its own: Triton decides on import whether it interprets, and an access out of
bounds ends the process.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
CASES = sorted(path.stem for path in Path(__file__).parent.glob("cases_*.py"))
# numpy warns where the interpreter computes log(0) or inf - inf, which is part of a kernel's arithmetic, and where
# older interpreters take an array of one element for a number
QUIET = [f"-Wignore::{kind}:triton.runtime.interpreter" for kind in ("RuntimeWarning", "DeprecationWarning")]


def run_cases(name, *, interpreted):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRITON_INTERPRET")}
    if interpreted:
        environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *QUIET,
        f"tests/triton_kernels/{name}.py",
    ]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def assert_passed(result):
    output = result.stdout[-6_000:] + result.stderr[-2_000:]
    assert result.returncode == 0, output
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) > 0, output


@pytest.mark.parametrize("name", CASES)
def test_kernels_keep_their_promises_in_the_interpreter(name):
    pytest.importorskip("triton")
    assert_passed(run_cases(name, interpreted=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", CASES)
def test_kernels_keep_their_promises_on_a_gpu(name):
    assert_passed(run_cases(name, interpreted=False))
