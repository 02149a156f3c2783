import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from logitstore.errors import InvalidInput
from logitstore.samplers import statistics as module
from logitstore.samplers import teacher_statistics
from logitstore.samplers.statistics import check_statistics
from tests.support.peak_memory import peak_bytes_of

NAMES = ("entropy", "label_probability", "top1_probability")
INF = float("inf")
#: float32 keeps an entropy of 8 to 16 nats to 5e-7; the rest is for the sums
TOLERANCE = 1e-6


def noise(rows, vocab_size, scale, seed=3):
    return scale * torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(seed))


def with_zeros(rows, vocab_size, scale):
    logits = noise(rows, vocab_size, scale)
    logits[:, 1::3] = -INF
    return logits


LOGITS = {
    "one token": torch.full((2, 1), 7.0),
    "two tokens": noise(5, 2, 3.0),
    "a block less one": noise(4, 127, 2.0),
    "a block": noise(4, 128, 2.0),
    "a block and one": noise(4, 129, 2.0),
    "flat, as many as Gemma has": torch.zeros(2, 262_144),
    "as many as Gemma has": noise(3, 262_144, 2.5),
    "half of them far below": torch.cat([torch.zeros(2, 70_000), torch.full((2, 70_000), -12.34567)], dim=1),
    "a heavy token over a long tail": torch.cat([torch.full((2, 1), 11.0), torch.zeros(2, 100_000)], dim=1),
    "peaked": noise(6, 1000, 40.0),
    "beyond what float32 can exponentiate": noise(6, 1000, 300.0),
    "far from zero": noise(4, 500, 2.0) + 4096.0,
    "certain": torch.tensor([[-INF, 3.0, -INF], [0.0, -INF, -INF]]),
    "with zeros": with_zeros(4, 1000, 4.0),
    "ties": torch.tensor([[1.0, 1.0, 0.0, 1.0]]),
}


def oracle(logits, labels):
    probabilities = torch.softmax(logits.double(), dim=-1)
    picked = probabilities.gather(1, labels.clamp(min=0)[:, None]).squeeze(1)
    return {
        "entropy": torch.special.entr(probabilities).sum(dim=-1),
        "label_probability": torch.where(labels == -100, math.nan, picked),
        "top1_probability": probabilities.amax(dim=-1),
    }


def labels_for(logits):
    labels = torch.arange(len(logits)) * 7 % logits.shape[1]
    labels[-1] = -100
    return labels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", LOGITS)
def test_statistics_are_those_of_the_full_distribution(case, dtype):
    logits = LOGITS[case].to(dtype)
    labels = labels_for(logits)
    found, wanted = teacher_statistics(logits, labels, NAMES), oracle(logits, labels)
    assert tuple(found) == NAMES
    for name in NAMES:
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name].double(), wanted[name], rtol=0, atol=TOLERANCE, equal_nan=True)


def test_small_label_probabilities_keep_their_digits():
    logits = torch.tensor([[0.0, -80.0, -INF, 3.0]]).expand(4, -1)
    found = teacher_statistics(logits, torch.tensor([0, 1, 2, -100]), ["label_probability"])["label_probability"]
    wanted = torch.softmax(logits[0].double(), dim=-1)
    assert found[:2].double().tolist() == pytest.approx(wanted[:2].tolist(), rel=1e-6)
    assert found[2] == 0
    assert found[3].isnan()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 300), st.integers(1, 700))
def test_a_row_does_not_depend_on_its_neighbours_or_on_blocks(seed, rows, vocab_size, block):
    logits = noise(rows, vocab_size, 5.0, seed)
    labels = labels_for(logits)
    whole = teacher_statistics(logits, labels, NAMES)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_BLOCK_LOGITS_CPU", block)
        in_blocks = teacher_statistics(logits, labels, NAMES)
    one_by_one = [teacher_statistics(logits[r : r + 1], labels[r : r + 1], NAMES) for r in range(rows)]
    for name in NAMES:
        alone = torch.cat([row[name] for row in one_by_one])
        # the bits: NaN is not equal to itself
        assert torch.equal(whole[name].view(torch.int32), in_blocks[name].view(torch.int32))
        assert torch.equal(whole[name].view(torch.int32), alone.view(torch.int32))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 300), st.floats(0.1, 50.0))
def test_a_label_has_the_largest_probability_exactly_where_it_is_the_most_probable_token(seed, vocab_size, scale):
    logits = noise(20, vocab_size, scale, seed)
    labels = torch.where(torch.arange(20) % 2 == 0, logits.argmax(dim=1), torch.arange(20) % vocab_size)
    found = teacher_statistics(logits, labels, NAMES)
    is_top = logits.gather(1, labels[:, None]).squeeze(1) == logits.amax(dim=1)
    # logits that differ by less than float32 can show in a probability are as good as tied
    ahead = logits.double().amax(dim=1) - logits.double().gather(1, labels[:, None]).squeeze(1)
    clear = is_top | (ahead > 1e-6)
    assert torch.equal((found["label_probability"] == found["top1_probability"])[clear], is_top[clear])
    assert (found["label_probability"] <= found["top1_probability"]).all()


def test_only_what_is_asked_for_comes_in_the_order_it_is_stored():
    logits = noise(3, 9, 1.0)
    assert list(teacher_statistics(logits, None, ["top1_probability", "entropy"])) == ["entropy", "top1_probability"]
    assert teacher_statistics(logits, None, []) == {}
    assert check_statistics(["top1_probability", "entropy", "entropy"]) == ("entropy", "top1_probability")
    assert check_statistics(reversed(NAMES)) == NAMES


def test_no_rows_give_no_values():
    found = teacher_statistics(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), NAMES)
    assert [(len(values), values.dtype) for values in found.values()] == [(0, torch.float32)] * 3


def test_logits_are_not_changed():
    logits = noise(3, 400, 2.0)
    before = logits.clone()
    teacher_statistics(logits, labels_for(logits), NAMES)
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.0, math.nan, 1.0], "NaN at token id 1"),
        ([0.0, -INF, INF], "\\+inf at token id 2"),
        ([-INF, -INF, -INF], "-inf at every token id"),
    ],
)
def test_bad_logits_are_refused_naming_the_position(row, message):
    logits = torch.zeros(5, 3)
    logits[3] = torch.tensor(row)
    with pytest.raises(InvalidInput, match=f"position 13 have {message}") as caught:
        teacher_statistics(logits, None, ["entropy"], first_position=10)
    assert caught.value.kind == "bad-logits"


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (None, ["label_probability"], "there are no labels"),
        (torch.zeros(2, dtype=torch.int64), ["label_probability"], "labels are torch.int64 with shape \\(2,\\)"),
        (torch.zeros(3, dtype=torch.int32), ["label_probability"], "labels are torch.int32"),
        (torch.tensor([0, 9, 1]), ["label_probability"], "a label is 9; 0 to 8"),
        (torch.tensor([0, -1, 1]), ["label_probability"], "a label is -1"),
        (None, ["perplexity"], "no statistic 'perplexity'; there are entropy, label_probability, top1_probability"),
        (None, "entropy", "a list of names was wanted"),
    ],
)
def test_what_cannot_be_computed_is_refused(labels, names, message):
    with pytest.raises(InvalidInput, match=message):
        teacher_statistics(torch.zeros(3, 9), labels, names)


MEMORY = """
import torch
from logitstore.samplers import teacher_statistics
torch.set_num_threads(1)
names = ["entropy", "label_probability", "top1_probability"]
logits, labels = torch.zeros(256, 131072), torch.zeros(256, dtype=torch.int64)
teacher_statistics(logits[:4], labels[:4], names)
"""


def test_scratch_memory_does_not_grow_with_the_positions():
    # the logits take 128 MiB
    assert peak_bytes_of(MEMORY, "teacher_statistics(logits, labels, names)") < 16 << 20
