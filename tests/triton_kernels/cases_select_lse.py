"""What the kernels of `select_lse` promise. Run by test_kernels.py, in the interpreter or on a GPU."""

import pytest
import torch

from logitstore.triton_kernels.configurations import RowConfiguration
from logitstore.triton_kernels.select_lse import ENTRY_BLOCK
from tests.triton_kernels.kernel_device import DEVICE, assert_rounded
from tests.triton_kernels.row_problem import NAMES, row_problem

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# entries of each position; vocabulary
SHAPES = {
    "one-column": ([1, 0, 1], 1),
    "two-columns": ([2, 1, 0], 2),
    "less-than-a-vector": ([2, 3, 1, 2], 5),
    "odd": ([5, 1, 0, 17, 3], 251),
    "odd-two-blocks": ([2, 0, 9], 4_099),
    "whole-vocabulary": ([11, 11], 11),
    "more-entries-than-a-block": ([ENTRY_BLOCK + 173, ENTRY_BLOCK, 2], 1_024),
}
OPTIONS = {
    "plain": {"labels": False},
    "labels": {},
    "temperature": {"temperature": 2.0},
    "cold": {"temperature": 0.5, "labels": False},
    "softcap": {"softcap": 30.0},
    "mean": {"with_mean": True, "labels": False},
    "all": {"temperature": 3.0, "softcap": 5.0, "with_mean": True},
}


def check_against_oracle(problem, **options):
    outputs = problem.forward(**options)
    gradients = problem.gradients_like(outputs)
    wanted, wanted_gradient = problem.oracle(gradients)
    for name, output, exact in zip(NAMES, outputs, wanted, strict=True):
        assert output.dtype == torch.float32
        torch.testing.assert_close(
            output.cpu().double(), exact, rtol=2e-6, atol=5e-6, msg=lambda m, name=name: f"{name}: {m}"
        )
    assert_rounded(problem.backward(outputs, gradients, **options), wanted_gradient)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradient_equal_the_dense_formula(shape, dtype):
    counts, vocab_size = SHAPES[shape]
    check_against_oracle(row_problem(counts, vocab_size, dtype=dtype))


@pytest.mark.parametrize("vocab_size", [32_003, 50_257, 262_144])
def test_large_vocabularies_equal_the_dense_formula(vocab_size):
    check_against_oracle(row_problem([50], vocab_size, dtype=torch.bfloat16))


@pytest.mark.parametrize("vocab_size", [251, 1_536])
@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_equals_the_dense_formula(options, vocab_size):
    check_against_oracle(row_problem([3, 0, 1, 9], vocab_size, **OPTIONS[options]))


@pytest.mark.parametrize("configuration", [(1_024, 4), (4_096, 8), (8_192, 8), (16_384, 16), (32_768, 32)], ids=str)
def test_every_configuration_gives_the_same_to_rounding(configuration):
    problem = row_problem([3, 0], 34_003, dtype=torch.bfloat16, temperature=2.0)
    check_against_oracle(problem, configuration=RowConfiguration(*configuration))


def test_an_empty_batch_gives_empty_outputs():
    problem = row_problem([], 251)
    outputs = problem.forward()
    assert [len(output) for output in outputs] == [0] * 5
    assert problem.backward(outputs, problem.gradients_like(outputs)).shape == (0, 251)


def test_positions_without_entries_are_never_looked_at():
    problem = row_problem([0, 3, 0], 251, temperature=2.0, with_mean=True)
    problem.ids = torch.cat([torch.full((4,), -1, dtype=torch.int32, device=DEVICE), problem.ids])
    problem.offsets = torch.tensor([0, 4, 7, 7], device=DEVICE)
    problem.labels[:] = 7
    problem.logits[[0, 2]] = float("nan")
    outputs = problem.forward()
    for output in (outputs[0], outputs[1], outputs[2], outputs[4]):
        assert output[[0, 2]].tolist() == [0.0, 0.0]
        assert torch.isfinite(output).all()
    assert outputs[3][:4].tolist() == [0.0] * 4
    gradient = problem.backward(outputs, problem.gradients_like(outputs))
    assert (gradient[[0, 2]] == 0).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("vocab_size", [251, 4_096 + 8])
def test_in_place_writes_the_same_and_nothing_beside(vocab_size):
    problem = row_problem([3, 0, 9, 1], vocab_size, dtype=torch.bfloat16)
    problem.logits[1] = float("nan")
    outputs = problem.forward()
    gradients = problem.gradients_like(outputs)
    apart = torch.full_like(problem.logits, float("nan"))
    assert problem.backward(outputs, gradients, out=apart) is apart
    assert torch.isfinite(apart).all()
    surroundings = torch.full((6, vocab_size + 3), 77.0, dtype=torch.bfloat16, device=DEVICE)
    inside = surroundings[1:5, 1:-2]
    inside.copy_(problem.logits)
    problem.logits = inside
    assert problem.backward(outputs, gradients, out=inside) is inside
    assert torch.equal(inside, apart)
    inside.fill_(77.0)
    assert (surroundings == 77.0).all()


def strided(kind):
    rows, vocab_size = 5, 2_051
    generator = torch.Generator().manual_seed(3)
    big = torch.randn(12, 2 * vocab_size + 10, generator=generator).to(DEVICE, torch.bfloat16)
    return {
        "padded-and-aligned": big[:rows, :4_104].as_strided((rows, vocab_size), (2_056, 1)),
        "odd-contiguous-from-row-one": big.flatten()[: 6 * vocab_size].view(6, vocab_size)[1:],
        "odd-stride-odd-start": big[:rows, 3 : 3 + vocab_size],
        "every-second-row": big[:10:2, :vocab_size],
        "every-second-column": big[:rows, : 2 * vocab_size : 2],
        "transposed": torch.randn(vocab_size, rows, generator=generator).to(DEVICE, torch.bfloat16).t(),
        "one-row-repeated": big[:1, :vocab_size].expand(rows, vocab_size),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "padded-and-aligned",
        "odd-contiguous-from-row-one",
        "odd-stride-odd-start",
        "every-second-row",
        "every-second-column",
        "transposed",
        "one-row-repeated",
    ],
)
def test_strides_change_nothing(kind):
    logits = strided(kind)
    problem = row_problem([3, 0, 9, 1, 4], 2_051, logits=logits)
    check_against_oracle(problem)
    outputs = problem.forward()
    gradients = problem.gradients_like(outputs)
    expected = problem.backward(outputs, gradients)
    out = torch.full((2_051, 5), float("nan"), dtype=torch.bfloat16, device=DEVICE).t()
    assert torch.equal(problem.backward(outputs, gradients, out=out), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("margin", [4.0, 7.0, 10.0, 16.0])
def test_a_confident_student_keeps_the_small_gradient_of_its_token(margin, dtype):
    # p of the token goes to 1, so d_lse * p - weight cancels: what is left must not come from a rounded p
    problem = row_problem([1, 1, 1], 64, dtype=dtype, labels=False, scale=0.5)
    ids = problem.ids.long()
    problem.logits[torch.arange(3, device=DEVICE), ids] = margin
    outputs = problem.forward()
    one, none = torch.ones(3, device=DEVICE), torch.zeros(0, device=DEVICE)
    gradients = [one, none, none, -one, none]
    found = problem.backward(outputs, gradients).cpu().double()
    exact = problem.oracle(gradients)[1]
    rows = torch.arange(3)
    # 2^-7: the interpreter's bfloat16; the rest: one float32 step of the lse, which is about the margin
    torch.testing.assert_close(found[rows, ids.cpu()], exact[rows, ids.cpu()], rtol=2.0**-7, atol=2.0**-23 * margin)


def test_minus_infinity_is_a_probability_of_zero():
    problem = row_problem([2, 2, 2], 3_000, labels=False, temperature=2.0)
    masked = torch.ones(3_000, dtype=torch.bool, device=DEVICE)
    masked[problem.ids.long()] = False
    problem.logits[:, masked] = float("-inf")
    outputs = problem.forward()
    exact = torch.logsumexp(problem.logits.double() / 2, 1)
    torch.testing.assert_close(outputs[0].double(), exact, rtol=2e-6, atol=2e-6)
    gradient = problem.backward(outputs, problem.gradients_like(outputs))
    assert torch.isfinite(gradient).all()
    assert (gradient[:, masked] == 0).all()


@pytest.mark.parametrize("column", [0, 200, 2_999])
def test_plus_infinity_and_nan_reach_the_log_sum_exp(column):
    problem = row_problem([2, 2, 2], 3_000, labels=False, scale=100.0)
    problem.logits[0, column] = float("inf")
    problem.logits[1, column] = float("nan")
    problem.logits[2] = float("-inf")
    lse = problem.forward()[0].tolist()
    assert lse[0] == float("inf")
    assert lse[1] != lse[1]
    assert lse[2] == float("-inf")


@pytest.mark.parametrize("value", [1e4, -1e4, 3e38, -3e38])
def test_large_logits_do_not_overflow(value):
    problem = row_problem([2], 600, labels=False, logits=torch.full((1, 600), value, device=DEVICE))
    outputs = problem.forward()
    exact = value + torch.tensor(600.0).log().item()
    assert outputs[0].item() == pytest.approx(exact, rel=1e-6)
    gradient = problem.backward(outputs, problem.gradients_like(outputs))
    assert torch.isfinite(gradient).all()


def test_ids_and_labels_beyond_the_vocabulary_come_out_as_nan_and_touch_nothing():
    problem = row_problem([2, 2, 2], 251)
    problem.ids[0], problem.ids[2] = 251, 2**31 - 1
    problem.labels[:] = torch.tensor([3, 251, -7], device=DEVICE)
    outputs = problem.forward()
    assert outputs[3].isnan().tolist() == [True, False, True, False, False, False]
    assert outputs[4].isnan().tolist() == [False, True, True]
    surroundings = torch.full((5, 251), 77.0, device=DEVICE)
    gradients = [gradient.nan_to_num() for gradient in problem.gradients_like(outputs)]
    problem.backward(outputs, gradients, out=surroundings[1:4])
    assert (surroundings[[0, 4]] == 77.0).all()


def test_repeated_runs_give_the_same_bits():
    problem = row_problem([12, 0, 50, 7], 32_003, dtype=torch.bfloat16, temperature=2.0, softcap=30.0)
    outputs = problem.forward()
    gradients = problem.gradients_like(outputs)
    first = problem.backward(outputs, gradients)
    for _ in range(2 if DEVICE == "cpu" else 100):
        again = problem.forward()
        assert all(torch.equal(a, b) for a, b in zip(outputs, again, strict=True))
        assert torch.equal(problem.backward(again, gradients), first)


@pytest.mark.skipif(DEVICE == "cpu", reason="4 GiB of logits: a GPU's work")
def test_offsets_beyond_32_bits_are_addressed():
    logits = torch.empty(33, 1 << 26, dtype=torch.bfloat16, device=DEVICE)[:, :50_257]
    logits.copy_(torch.randn(33, 50_257, device=DEVICE))
    check_against_oracle(row_problem([3] * 33, 50_257, logits=logits))
