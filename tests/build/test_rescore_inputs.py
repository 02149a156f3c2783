"""What rescoring takes, honours and refuses."""

import numpy as np
import pytest
import torch

from logitstore.build.agreement import identical_positions, overlaps
from logitstore.build.rescore import chosen_sequences, rescore_store
from logitstore.build.rescore_report import Score
from logitstore.errors import InvalidInput
from logitstore.samplers import RandomSampling, Threshold, TopK, TopP
from logitstore.store import create_store, open_store
from logitstore.targets import SparseTargets
from tests.build.scored_stores import (
    LENGTH,
    VOCAB_SIZE,
    draw,
    make_scored_store,
    rows_after,
    toy_teacher,
)

ONE_OF_EACH = [Threshold(20), RandomSampling(20), RandomSampling(12, 0.8), TopK(20), TopP(0.9)]


def rescore(path, fraction=1.0, **options):
    return rescore_store(path, fraction, **{"teacher": toy_teacher(), "quiet": True, **options})


def test_columns_beyond_the_tokenizer_are_masked_as_in_the_build(tmp_path):
    path = make_scored_store(tmp_path / "s", RandomSampling(50), wrong=None, drawn_with=4, masked_from=VOCAB_SIZE)
    result = rescore(path)
    assert result.to_dict()["disagreeing_share"] > 0.05  # drawn from columns that have no probability
    assert [finding.kind for finding in result.findings] == ["teacher-disagrees"]


@pytest.mark.parametrize(("stored", "running"), [(297, 300), (300, 297), (151_936, 152_064), (152_064, 151_936)])
def test_a_padded_vocabulary_is_found_before_the_teacher_runs(tmp_path, stored, running):
    sampler, rows = RandomSampling(4), torch.zeros(3, stored)
    with create_store(tmp_path / "s", vocab_size=stored, sampler=sampler) as writer:
        writer.append([1, 2, 3], sampler(rows))

    def fails(tokens):
        raise AssertionError("the teacher ran")

    result = rescore(tmp_path / "s", teacher=toy_teacher(width=running, read=fails))
    assert [(finding.kind, finding.where) for finding in result.findings] == [("teacher-disagrees", "vocab_size")]
    assert f"{running} columns, the store's vocab_size is {stored}" in result.findings[0].message
    assert result.to_dict()["z"] is None
    assert "was not run" in result.verdict


def test_a_teacher_temperature_is_honoured(tmp_path):
    sampler = Threshold(20)
    with create_store(tmp_path / "s", vocab_size=VOCAB_SIZE, sampler=sampler, teacher_temperature=2.0) as writer:
        for index in range(5):
            tokens = torch.arange(LENGTH) + index
            targets = sampler(rows_after(tokens) / 2, index=index)
            writer.append(tokens.numpy(), SparseTargets(**{**vars(targets), "teacher_temperature": 2.0}))
    assert rescore(tmp_path / "s").findings == []
    with create_store(tmp_path / "t", vocab_size=VOCAB_SIZE, sampler=sampler) as writer:
        for sequence in open_store(tmp_path / "s"):
            writer.append(
                sequence.tokens.numpy(), SparseTargets(**{**vars(sequence.targets), "teacher_temperature": 1.0})
            )
    assert [finding.kind for finding in rescore(tmp_path / "t").findings] == ["teacher-disagrees"]


class InBlocks:
    """A teacher that gives a sequence's logits in pieces, and several sequences at once."""

    def __init__(self, inner, rows):
        self._inner, self._rows = inner, rows

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def plan_batch_size(self, seq_len):
        return 3

    def logit_blocks(self, tokens):
        for number, _, logits in self._inner.logit_blocks(tokens):
            for start in range(0, len(logits), self._rows):
                yield number, start, logits[start : start + self._rows].clone()


@pytest.mark.parametrize("sampler", ONE_OF_EACH, ids=str)
def test_blocks_and_batches_change_nothing(tmp_path, sampler):
    path = make_scored_store(tmp_path / "s", sampler, sequences=4, length=50)
    whole, parts = rescore(path).to_dict(), rescore(path, teacher=InBlocks(toy_teacher(), 20)).to_dict()
    for one, other in zip(parts["by_sequence"], whole["by_sequence"], strict=True):
        assert one == pytest.approx(other, rel=1e-9)
    for name in ("identical_share", "disagreeing_share", "z", "positions"):
        assert parts[name] == (whole[name] and pytest.approx(whole[name], rel=1e-9))


def test_masked_positions_are_left_out(tmp_path):
    sampler, tokens = Threshold(20), torch.arange(LENGTH)
    targets = draw(tokens, sampler, seed=0, index=0)
    keep = targets.rows >= 40
    counts, heads = targets.counts.clone(), targets.head_counts.clone()
    counts[:40], heads[:40] = 0, 0
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    masked = SparseTargets(offsets, targets.ids[keep], targets.weights[keep], heads)
    with create_store(tmp_path / "s", vocab_size=VOCAB_SIZE, sampler=sampler, seed=0, tokenizer_size=297) as writer:
        writer.append(tokens.numpy(), masked)
    result = rescore(tmp_path / "s")
    assert result.total.positions == LENGTH - 40
    assert result.to_dict()["identical_share"] == 1.0
    assert result.findings == []


def test_statistics_of_another_teacher_are_found(tmp_path):
    sampler = TopK(5)
    for name, twist in (("s", 0.0), ("t", 0.3)):
        with create_store(tmp_path / name, vocab_size=VOCAB_SIZE, sampler=sampler) as writer:
            for index in range(3):
                tokens = torch.arange(LENGTH) + index
                log_p = torch.log_softmax(rows_after(tokens, twist=twist).double(), -1)
                entropy = -(log_p.exp() * log_p).sum(1).float()
                targets = sampler(rows_after(tokens))
                writer.append(tokens.numpy(), SparseTargets(**{**vars(targets), "teacher_entropy": entropy}))
    assert rescore(tmp_path / "s").findings == []
    result = rescore(tmp_path / "t")
    assert result.to_dict()["disagreeing_share"] == 0
    assert result.to_dict()["statistics_off_share"] > 0.5
    assert [finding.kind for finding in result.findings] == ["teacher-disagrees"]


def test_sequences_are_chosen_at_random_and_the_same_way_again(tmp_path):
    assert chosen_sequences(100, 0.1, 0) == chosen_sequences(100, 0.1, 0)
    assert chosen_sequences(100, 0.1, 0) != chosen_sequences(100, 0.1, 1)
    assert len(set(chosen_sequences(100, 0.1, 0))) == 10
    assert chosen_sequences(100, 1e-9, 0) == chosen_sequences(100, 0.01, 0)
    assert chosen_sequences(7, 1.0, 3) == list(range(7))
    often = np.bincount(np.concatenate([chosen_sequences(20, 0.25, seed) for seed in range(400)]), minlength=20)
    assert 60 < often.min() <= often.max() < 140  # 100 expected, standard deviation 8.7
    path = make_scored_store(tmp_path / "s", Threshold(20), sequences=9)
    assert rescore(path, 0.3, seed=2).to_dict()["sequences"] == chosen_sequences(9, 0.3, 2)


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(tmp_path, fraction):
    make_scored_store(tmp_path / "s", Threshold(20), sequences=1)
    with pytest.raises(InvalidInput, match="above 0, at most 1"):
        rescore(tmp_path / "s", fraction)


def test_a_sampler_that_nobody_knows_is_refused(tmp_path):
    with create_store(tmp_path / "s", vocab_size=9, sampler={"name": "mine"}) as writer:
        one = torch.tensor([0, 1]), torch.tensor([1], dtype=torch.int32), torch.tensor([0.5])
        writer.append([1], SparseTargets(*one))
    with pytest.raises(InvalidInput, match="no sampler 'mine'") as caught:
        rescore(tmp_path / "s")
    assert caught.value.kind == "unknown-sampler"


def test_a_store_that_names_no_teacher_needs_one(tmp_path):
    path = make_scored_store(tmp_path / "s", Threshold(20), sequences=1)
    with pytest.raises(InvalidInput, match=r"names no teacher that can be loaded.*--teacher"):
        rescore(path, teacher=None)


def test_what_targets_have_in_common_is_counted_by_position():
    offsets = torch.tensor([0, 2, 3, 3])
    first = SparseTargets(offsets, torch.tensor([4, 2, 7], dtype=torch.int32), torch.tensor([0.25, 0.75, 1.0]))
    second = SparseTargets(offsets, torch.tensor([2, 9, 7], dtype=torch.int32), torch.tensor([0.5, 0.5, 1.0]))
    assert overlaps(first, second).tolist() == [0.5, 1.0, 0.0]
    assert identical_positions(first, second, 0.0).tolist() == [False, True, True]


def test_the_bound_on_the_chance_holds_for_coins():
    """Bernstein's inequality against the exact tail: 400 tosses, the deviation is heads less 200."""
    tosses = np.random.default_rng(1).binomial(400, 0.5, 200_000) - 200.0
    for deviation in (10, 20, 30, 40):
        score = Score(-1, 400, 0, 0, 0, 0, 0, float(deviation), 100.0)
        assert (np.abs(tosses) >= deviation).mean() <= score.chance(0.5) <= 1
    assert Score(-1, 400, 0, 0, 0, 0, 0, 90.0, 100.0).chance(0.5) < 1e-12
