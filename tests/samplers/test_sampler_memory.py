import subprocess
import sys

import pytest

ROWS, VOCAB_SIZE = 64, 262_144
ONE_BUFFER = ROWS * VOCAB_SIZE * 4

PROBE = """
import torch
from pathlib import Path
from logitstore.samplers import RandomSampling, Threshold, TopK, TopP
torch.set_num_threads(1)
def peak_kib():  # of this program alone: ru_maxrss begins at what the parent had
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
def dense_control(logits):
    return torch.softmax(logits, -1).cumsum(-1)
work = {work}
generator = torch.Generator().manual_seed(0)
logits = torch.empty({rows}, {vocab_size}, dtype=torch.{dtype})
logits.copy_(3 * torch.randn({vocab_size}, generator=generator))
work(logits[:1])  # what is loaded and set up once does not count
before = peak_kib()
work(logits)
print((peak_kib() - before) * 1024)
"""


def peak_bytes(work, dtype):
    code = PROBE.format(work=work, rows=ROWS, vocab_size=VOCAB_SIZE, dtype=dtype)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "sampler", ["Threshold(20)", "RandomSampling(50)", "RandomSampling(50, 0.8)", "TopK(50)", "TopP()"]
)
def test_samplers_take_less_than_one_buffer_beyond_the_logits(sampler, dtype):
    assert peak_bytes(sampler, dtype) <= ONE_BUFFER


def test_control_a_dense_cumulative_sum_takes_more():
    assert peak_bytes("dense_control", "float32") > ONE_BUFFER
