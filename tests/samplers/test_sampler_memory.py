import pytest

from tests.support.peak_memory import peak_bytes_of

ROWS, VOCAB_SIZE = 64, 262_144
ONE_BUFFER = ROWS * VOCAB_SIZE * 4

SETUP = """
import torch
from logitstore.samplers import RandomSampling, Threshold, TopK, TopP
torch.set_num_threads(1)
def dense_control(logits):
    return torch.softmax(logits, -1).cumsum(-1)
generator = torch.Generator().manual_seed(0)
logits = torch.empty({rows}, {vocab_size}, dtype=torch.{dtype})
logits.copy_(3 * torch.randn({vocab_size}, generator=generator))
work = {work}
work(logits[:1])  # what is loaded and set up once does not count
"""


def peak_bytes(work, dtype):
    setup = SETUP.format(work=work, rows=ROWS, vocab_size=VOCAB_SIZE, dtype=dtype)
    return peak_bytes_of(setup, "work(logits)")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "sampler", ["Threshold(20)", "RandomSampling(50)", "RandomSampling(50, 0.8)", "TopK(50)", "TopP()"]
)
def test_samplers_take_less_than_one_buffer_beyond_the_logits(sampler, dtype):
    assert peak_bytes(sampler, dtype) <= ONE_BUFFER


def test_control_a_dense_cumulative_sum_takes_more():
    assert peak_bytes("dense_control", "float32") > ONE_BUFFER
