"""What the samplers' kernels promise. Run by test_kernels.py, in the interpreter or on a GPU."""

import pytest
import torch

from logitstore.samplers.column_blocks import ColumnBlocks
from logitstore.samplers.random_sampling import draw_ids
from logitstore.samplers.threshold import assemble_targets, sample_threshold
from logitstore.samplers.threshold_rule import solve_threshold
from logitstore.samplers.top_k import largest_ids as reference_largest_ids
from logitstore.triton_kernels.logit_blocks import COLUMN_BLOCK, LogitBlocks, largest_ids
from tests.triton_kernels.kernel_device import DEVICE

# one column; around a block; around a tile of 64 blocks, odd
SIZES = [1, 128, 129, 8_192, 9_011]


def random_logits(num_rows, vocab_size, *, dtype=torch.float32, scale=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(num_rows, vocab_size, generator=generator) * scale).to(DEVICE, dtype)


def uniforms(*shape, seed=1):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def exact_probabilities(logits, power=1.0):
    return torch.softmax(logits.double() * power, -1)


def in_order(logits):
    """Return the ids of each row by falling logit, lower ids first among equals."""
    return logits.float().sort(dim=1, descending=True, stable=True).indices


@pytest.mark.parametrize(("dtype", "power"), [(torch.float32, 0.7), (torch.bfloat16, 1.0)], ids=str)
@pytest.mark.parametrize("vocab_size", SIZES)
def test_masses_and_log_sum_exp_equal_the_float64_formula(vocab_size, dtype, power):
    logits = random_logits(3, vocab_size, dtype=dtype)
    blocks = LogitBlocks(logits, power)
    exact = torch.logsumexp(logits.double() * power, -1)
    torch.testing.assert_close(blocks.log_sum_exp(), exact, rtol=0, atol=5e-7)
    padded = torch.nn.functional.pad(exact_probabilities(logits, power), (0, -vocab_size % COLUMN_BLOCK))
    wanted = padded.view(3, -1, COLUMN_BLOCK).sum(dim=-1)
    torch.testing.assert_close(blocks.sums(), wanted, rtol=3e-6, atol=0)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "few-values", "one-value", "zeros-of-both-signs", "masked"])
@pytest.mark.parametrize("vocab_size", [1, 8_193])
def test_the_largest_come_exactly_and_ties_go_to_the_lower_id(kind, vocab_size):
    logits = random_logits(2, vocab_size)
    logits = {
        "float32": logits,
        "bfloat16": logits.bfloat16(),
        "few-values": logits.round(),
        "one-value": torch.full_like(logits, -2.5),
        "zeros-of-both-signs": torch.where(logits > 0, 0.0, -0.0),
        "masked": torch.where(logits > 9, logits, float("-inf")),
    }[kind]
    if kind == "masked":
        logits[:, vocab_size // 2] = 1.0
    for count in (1, 70):
        count = min(count, vocab_size)
        masses, ids = LogitBlocks(logits).largest(count)
        wanted = in_order(logits)[:, :count]
        assert torch.equal(ids, wanted)
        exact = exact_probabilities(logits).gather(1, wanted)
        torch.testing.assert_close(masses.double(), exact, rtol=2e-6, atol=1e-38)
        if kind != "zeros-of-both-signs" or count == vocab_size:
            assert torch.equal(largest_ids(logits, count), reference_largest_ids(logits.float(), count))


def test_draws_equal_the_reference_where_rounding_cannot_move_them():
    logits = random_logits(4, 5_003, scale=2.5)
    ends = exact_probabilities(logits).cumsum(-1)
    # the middle of the cells of the 100 largest tokens: all are wider than 1e-4
    tokens = in_order(logits)[:, :100]
    before = torch.where(tokens > 0, ends.gather(1, (tokens - 1).clamp(min=0)), 0.0)
    middles = (before + ends.gather(1, tokens)) / 2
    blocks = LogitBlocks(logits)
    block_ends = blocks.sums().cumsum(dim=-1)
    drawn = blocks.invert(block_ends, middles * block_ends[:, -1:])
    assert torch.equal(drawn, tokens)
    assert torch.equal(drawn, draw_ids(ColumnBlocks(torch.softmax(logits, -1)), middles))


@pytest.mark.parametrize(("dtype", "power"), [(torch.float32, 1.0), (torch.bfloat16, 0.8)], ids=str)
@pytest.mark.parametrize("vocab_size", [129, 20_011])
def test_every_draw_lies_within_rounding_of_its_token(vocab_size, dtype, power):
    logits = random_logits(3, vocab_size, dtype=dtype)
    chances = uniforms(3, 100)
    blocks = LogitBlocks(logits, power)
    block_ends = blocks.sums().cumsum(dim=-1)
    ids = blocks.invert(block_ends, chances * block_ends[:, -1:])
    ends = exact_probabilities(logits, power).cumsum(-1)
    after = ends.gather(1, ids)
    before = torch.where(ids > 0, ends.gather(1, (ids - 1).clamp(min=0)), 0.0)
    assert (chances <= after + 1e-6).all()
    assert (chances >= before - 1e-6).all()
    reference = draw_ids(ColumnBlocks(torch.softmax(logits.float() * power, -1)), chances)
    assert (ids == reference).double().mean() > 0.99


def test_tokens_without_mass_never_come_out():
    logits = torch.full((2, 1_000), float("-inf"), device=DEVICE)
    possible = torch.tensor([130, 131, 500, 998], device=DEVICE)
    logits[:, possible] = torch.tensor([0.0, -60.0, 3.0, 1.0], device=DEVICE)
    chances = torch.tensor([0.0, 1e-300, 0.3, 0.5, 1 - 2.0**-53], dtype=torch.float64, device=DEVICE).expand(2, 5)
    blocks = LogitBlocks(logits)
    block_ends = blocks.sums().cumsum(dim=-1)
    ids = blocks.invert(block_ends, chances * block_ends[:, -1:])
    assert torch.isin(ids, possible).all()
    assert ids[:, 0].tolist() == [130, 130]
    assert ids[:, -1].tolist() == [998, 998]
    beyond = blocks.invert(block_ends, torch.full((2, 1), 1.5, dtype=torch.float64, device=DEVICE))
    assert beyond.tolist() == [[998], [998]]


def test_what_is_left_of_a_peaked_row_does_not_cancel():
    logits = random_logits(2, 3_000, scale=1.0)
    logits[:, 77] = 40.0
    blocks = LogitBlocks(logits)
    blocks.largest(3)
    blocks.leave_out(torch.tensor([1, 3], device=DEVICE))
    exact = exact_probabilities(logits)
    exact[0, 77] = 0
    exact[1].index_fill_(0, in_order(logits)[1, :3], 0)
    wanted = torch.nn.functional.pad(exact, (0, 72)).view(2, -1, COLUMN_BLOCK).sum(dim=-1)
    torch.testing.assert_close(blocks.sums(), wanted, rtol=1e-5, atol=0)
    blocks.leave_out(torch.zeros(2, dtype=torch.int64, device=DEVICE))
    assert blocks.sums().sum(dim=1).tolist() == pytest.approx([1.0, 1.0])


def threshold_from_logits(logits, draws, grid, sampling, rounding):
    """The sampler's steps, with the kernels in place of the probabilities."""
    blocks = LogitBlocks(logits)
    values, ids = blocks.largest(draws)
    values = values.double()
    blocks.leave_out(torch.full((len(ids),), ids.shape[1], device=ids.device))
    solution = solve_threshold(values, blocks.sums().sum(dim=-1), draws)
    blocks.leave_out(solution.head_counts)
    ends = blocks.sums().cumsum(dim=-1)
    draw = torch.arange(int(solution.tail_counts.max()), device=ids.device)
    counts = draw < solution.tail_counts[:, None]
    spacing = ends[:, -1:] / solution.tail_counts[:, None].clamp(min=1)
    tail_ids = blocks.invert(ends, torch.where(counts, (sampling[:, None] + draw) * spacing, 0.0))
    counts[:, 1:] &= tail_ids[:, 1:] != tail_ids[:, :-1]
    is_head = torch.arange(ids.shape[1], device=ids.device) < solution.head_counts[:, None]
    head_ids, order = torch.where(is_head, ids, logits.shape[1]).sort(dim=-1)
    head = torch.where(is_head, values / solution.total[:, None], 0.0).gather(1, order)
    return assemble_targets(head_ids, head, tail_ids, counts, grid, rounding)


@pytest.mark.parametrize(
    ("draws", "vocab_size", "scale"),
    [(20, 2, 6.0), (1, 251, 2.0), (20, 251, 0.3), (20, 8_193, 2.0)],
)
def test_threshold_sampling_gives_the_entries_of_the_reference(draws, vocab_size, scale):
    logits = random_logits(8, vocab_size, scale=scale, seed=draws)
    sampling, rounding = uniforms(8, seed=2), uniforms(8, seed=3)
    found = threshold_from_logits(logits, draws, 64, sampling, rounding)
    wanted = sample_threshold(torch.softmax(logits, -1), draws, 64, sampling, rounding)
    assert torch.equal(found.offsets, wanted.offsets)
    assert torch.equal(found.ids, wanted.ids)
    assert torch.equal(found.head_counts, wanted.head_counts)
    torch.testing.assert_close(found.weights, wanted.weights, rtol=1e-6, atol=1e-7)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    rows = slice(1, 5, 2)
    logits, chances = random_logits(6, 4_097, dtype=torch.bfloat16), uniforms(6, 20)

    def draw(logits, chances):
        blocks = LogitBlocks(logits)
        masses, ids = blocks.largest(20)
        blocks.leave_out(torch.full((len(ids),), 2, device=DEVICE))
        sums = blocks.sums()
        return masses, ids, sums, blocks.invert(sums.cumsum(1), chances * sums.sum(1, keepdim=True))

    together, alone = draw(logits, chances), draw(logits[rows], chances[rows])
    assert all(torch.equal(a[rows], b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("kind", ["padded", "transposed"])
def test_strides_change_nothing_but_rounding(kind):
    logits = random_logits(5, 2_051)
    strided = {"padded": random_logits(5, 3_000)[:, 1:2_052], "transposed": random_logits(2_051, 5).t()}[kind]
    strided.copy_(logits)
    found, wanted = LogitBlocks(strided), LogitBlocks(logits)
    assert torch.equal(found.largest(20)[1], wanted.largest(20)[1])
    torch.testing.assert_close(found.sums(), wanted.sums(), rtol=1e-6, atol=0)


def test_bad_rows_show_in_their_log_sum_exp():
    logits = random_logits(4, 1_000)
    logits[0, 3], logits[1, 700], logits[2] = float("nan"), float("inf"), float("-inf")
    assert LogitBlocks(logits).log_sum_exp().isfinite().tolist() == [False, False, False, True]


def test_no_rows_give_empty_results():
    blocks = LogitBlocks(torch.empty(0, 300, device=DEVICE))
    masses, ids = blocks.largest(20)
    assert masses.shape == ids.shape == (0, 20)
    sums = blocks.sums()
    assert sums.shape == (0, 3)
    assert blocks.invert(sums, torch.empty(0, 5, dtype=torch.float64, device=DEVICE)).shape == (0, 5)


def test_repeated_runs_give_the_same_bits():
    logits, chances = random_logits(3, 8_193, dtype=torch.bfloat16), uniforms(3, 50)
    results = []
    for _ in range(2 if DEVICE == "cpu" else 100):
        blocks = LogitBlocks(logits)
        ends = blocks.sums().cumsum(1)
        results.append((ends, blocks.largest(20)[1], blocks.invert(ends, chances * ends[:, -1:])))
    assert all(torch.equal(a, b) for result in results for a, b in zip(result, results[0], strict=True))
