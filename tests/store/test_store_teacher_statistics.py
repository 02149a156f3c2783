import itertools
import json
import math

import numpy as np
import pytest
import torch

from logitstore.errors import InvalidInput
from logitstore.samplers import RandomSampling, Threshold, TopK, teacher_statistics
from logitstore.store import create_store, open_store, store_statistics, verify_store
from logitstore.store.teacher_means import teacher_means
from logitstore.targets import STATISTIC_FIELDS, SparseTargets
from tests.support.stores import make_store

VOCAB_SIZE = 30
NAMES = tuple(STATISTIC_FIELDS)


def make_statistics_store(path, *, names=NAMES, lengths=(40, 1, 25, 60), sampler=None):
    """Write a store with the teacher's statistics; return the logits and labels of each sequence."""
    sampler = sampler or Threshold(12)
    generator = torch.Generator().manual_seed(2)
    rows, all_labels = [], []
    with create_store(path, vocab_size=VOCAB_SIZE, sampler=sampler, sequences_per_shard=2) as writer:
        for index, length in enumerate(lengths):
            logits = 2 * torch.randn(length, VOCAB_SIZE, generator=generator)
            tokens = torch.multinomial(torch.softmax(logits, -1), 1, generator=generator).squeeze(1)
            labels = torch.cat([tokens[1:], torch.tensor([-100])])
            found = teacher_statistics(logits, labels, names)
            targets = sampler(logits, index=index)
            fields = {STATISTIC_FIELDS[name]: values for name, values in found.items()}
            targets = SparseTargets(
                targets.offsets, targets.ids, targets.weights, targets.head_counts, sampler=sampler.name, **fields
            )
            writer.append(tokens, targets)
            rows.append(logits)
            all_labels.append(labels)
    return rows, all_labels


SUBSETS = [names for size in range(4) for names in itertools.combinations(NAMES, size)]


@pytest.mark.parametrize("names", SUBSETS, ids=lambda names: "+".join(names) or "none")
def test_statistics_are_read_back_bit_for_bit_and_no_others(tmp_path, names):
    rows, labels = make_statistics_store(tmp_path / "s", names=names)
    assert verify_store(tmp_path / "s") == []
    for index, sequence in enumerate(open_store(tmp_path / "s")):
        wanted = teacher_statistics(rows[index], labels[index], names)
        for name, field in STATISTIC_FIELDS.items():
            found = getattr(sequence.targets, field)
            if name not in names:
                assert found is None
            else:
                assert torch.equal(found.view(torch.int32), wanted[name].view(torch.int32))


@pytest.mark.parametrize("sampler", [RandomSampling(9), RandomSampling(9, 0.7), TopK(4)], ids=lambda s: repr(s))
def test_statistics_go_with_every_form_of_weights(tmp_path, sampler):
    make_statistics_store(tmp_path / "s", sampler=sampler)
    for sequence in open_store(tmp_path / "s"):
        assert all(values is not None for values in sequence.targets.statistics.values())
        assert sequence.targets.label_probability.isnan().tolist() == [False] * (len(sequence.tokens) - 1) + [True]


def test_statistics_have_their_own_share_of_the_bytes(tmp_path):
    make_statistics_store(tmp_path / "s")
    make_statistics_store(tmp_path / "bare", names=())
    split, bare = (store_statistics(tmp_path / name)["bytes_per_position_split"] for name in ("s", "bare"))
    assert (split["entries"], split["tokens"]) == (bare["entries"], bare["tokens"])
    assert bare["statistics"] == 0
    # three float32 numbers, which hardly compress
    assert 8 < split["statistics"] < 14
    whole = store_statistics(tmp_path / "s")
    assert sum(split.values()) == pytest.approx(whole["bytes_per_position"])


def test_means_are_those_of_the_full_distributions(tmp_path):
    rows, labels = make_statistics_store(tmp_path / "s")
    probabilities, label = torch.softmax(torch.cat(rows).double(), -1), torch.cat(labels)
    known = label >= 0
    picked = probabilities[known].gather(1, label[known][:, None]).squeeze(1)
    means = store_statistics(tmp_path / "s")["teacher"]
    assert means["positions"] == len(label)
    assert means["entropy"] == pytest.approx(float(torch.special.entr(probabilities).sum(-1).mean()), abs=1e-6)
    assert means["loss"] == pytest.approx(float(-picked.log().mean()), abs=1e-6)
    assert means["top1_probability"] == pytest.approx(float(probabilities.amax(-1).mean()), abs=1e-6)
    hits = probabilities[known].argmax(-1) == label[known]
    assert means["top1_accuracy"] == float(hits.double().mean())
    top = probabilities[known].amax(-1)
    gaps = 0.0
    for number in range(15):
        inside = (top >= number / 15) & (top < (number + 1) / 15)
        if inside.any():
            gaps += float(inside.double().mean() * (hits[inside].double().mean() - top[inside].mean()).abs())
    assert means["calibration_error"] == pytest.approx(gaps, abs=1e-6)
    assert json.loads(json.dumps(means)) == means


def test_an_overconfident_teacher_has_a_large_calibration_error(tmp_path):
    def error_of(path, probability):
        """Half of the labels are the most probable token, which has `probability` everywhere."""
        is_top = torch.arange(1000) % 2 == 0
        label = torch.where(is_top, probability, (1 - probability) / 4)
        one = torch.ones(1000)
        targets = SparseTargets(
            torch.arange(1001),
            torch.zeros(1000, dtype=torch.int32),
            one,
            label_probability=label,
            top1_probability=one * probability,
        )
        with create_store(path, vocab_size=9, sampler=RandomSampling(4)) as writer:
            writer.append(np.zeros(1000, dtype=np.int32), targets)
        return store_statistics(path)["teacher"]["calibration_error"]

    assert error_of(tmp_path / "right", 0.5) == pytest.approx(0.0, abs=1e-6)
    assert error_of(tmp_path / "wrong", 0.9) == pytest.approx(0.4, abs=1e-6)


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (("entropy",), {"entropy"}),
        (("label_probability",), {"loss"}),
        (("top1_probability",), {"top1_probability"}),
        (("entropy", "top1_probability"), {"entropy", "top1_probability"}),
    ],
)
def test_means_that_are_not_stored_are_left_out(tmp_path, names, keys):
    make_statistics_store(tmp_path / "s", names=names)
    assert store_statistics(tmp_path / "s")["teacher"].keys() == keys | {"positions"}


def test_a_store_without_statistics_says_nothing_of_its_teacher(tmp_path):
    make_store(tmp_path / "s", lengths=[5, 8])
    assert "teacher" not in store_statistics(tmp_path / "s")


def test_masked_positions_do_not_count_and_a_label_of_probability_zero_has_a_finite_loss(tmp_path):
    targets = SparseTargets(
        torch.tensor([0, 1, 1, 2]),
        torch.tensor([4, 4], dtype=torch.int32),
        torch.ones(2),
        teacher_entropy=torch.tensor([1.0, math.nan, 2.0]),
        label_probability=torch.tensor([0.0, 7.0, math.nan]),
    )
    with create_store(tmp_path / "s", vocab_size=9, sampler=RandomSampling(4)) as writer:
        writer.append([1, 2, 3], targets)
    means = store_statistics(tmp_path / "s")["teacher"]
    assert means == {"positions": 2, "entropy": 1.5, "loss": pytest.approx(149 * math.log(2))}


def test_a_large_store_is_read_in_evenly_spread_sequences(tmp_path):
    make_statistics_store(tmp_path / "s", lengths=[10] * 12)
    store = open_store(tmp_path / "s")
    read = []
    real = store.read_blob
    store.read_blob = lambda index: (read.append(index), real(index))[1]
    assert teacher_means(store, max_positions=40)["positions"] == 40
    assert read == [0, 3, 6, 9]
    assert teacher_means(store, max_positions=1)["positions"] == 10
    assert teacher_means(store)["positions"] == 120


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("teacher_entropy", [0.5, math.nan], "teacher_entropy at position 1 of sequence 0 is nan; a number of nats"),
        ("teacher_entropy", [-0.5, 0.5], "position 0 of sequence 0 is -0.5; a number of nats, 0 or more"),
        ("teacher_entropy", [math.inf, 0.5], "is inf"),
        ("label_probability", [0.5, 1.5], "label_probability at position 1 .* is 1.5; a number from 0 to 1, or NaN"),
        ("top1_probability", [0.5, math.nan], "top1_probability at position 1 .* is nan; a number from 0 to 1 was"),
        ("top1_probability", [-1.0, 0.5], "is -1.0"),
    ],
)
def test_statistics_that_cannot_be_ones_are_refused(tmp_path, field, values, message):
    ids = torch.tensor([4, 4], dtype=torch.int32)
    targets = SparseTargets(torch.tensor([0, 1, 2]), ids, torch.ones(2), **{field: torch.tensor(values)})
    with (
        pytest.raises(InvalidInput, match=message),
        create_store(tmp_path / "s", vocab_size=9, sampler=RandomSampling(4)) as writer,
    ):
        writer.append([1, 2], targets)
