"""The compact vocabulary: exact, linear, and free of the mapped targets' own draws."""

from __future__ import annotations

import pytest
import torch

from logitstore.demo.vocabulary import CompactVocabulary
from logitstore.errors import InvalidInput
from tests.demo.toy_store import VOCAB_SIZE, sparse, teacher_probabilities, toy_store

KEPT = torch.tensor([0, 3, 4, 17, 41])


def random_targets(positions: int = 40):
    generator = torch.Generator().manual_seed(3)
    dense = torch.rand(positions, VOCAB_SIZE, generator=generator)
    dense = torch.where(torch.rand(positions, VOCAB_SIZE, generator=generator) < 0.2, dense, 0.0)
    dense[7] = 0.0
    return sparse(dense)


def test_kept_ids_have_their_own_column_and_all_others_share_the_last():
    vocabulary = CompactVocabulary(KEPT)
    ids = torch.arange(VOCAB_SIZE).view(4, -1)
    expected = [KEPT.tolist().index(i) if i in KEPT.tolist() else 5 for i in range(VOCAB_SIZE)]
    assert vocabulary.map_ids(ids).flatten().tolist() == expected
    assert vocabulary.map_ids(ids).shape == ids.shape


def test_ignored_labels_stay_ignored():
    assert CompactVocabulary(KEPT).map_labels(torch.tensor([-100, 17, 5])).tolist() == [-100, 3, 5]


def test_mapping_targets_commutes_with_making_them_dense():
    vocabulary, targets = CompactVocabulary(KEPT), random_targets()
    mapped = vocabulary.map_targets(targets).to_dense(vocabulary.size)
    # float32 sums of at most 60 weights below 1
    torch.testing.assert_close(mapped, vocabulary.map_rows(targets.to_dense(VOCAB_SIZE)), atol=1e-5, rtol=0)


def test_mapping_targets_preserves_the_sum_of_each_position_and_empty_positions():
    targets = random_targets()
    mapped = CompactVocabulary(KEPT).map_targets(targets)
    before = torch.zeros(40, dtype=torch.float64).index_add_(0, targets.rows, targets.weights.double())
    after = torch.zeros(40, dtype=torch.float64).index_add_(0, mapped.rows, mapped.weights.double())
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
    assert mapped.counts[7] == 0


def test_mapped_ids_ascend_without_repeats_within_a_position():
    mapped = CompactVocabulary(KEPT).map_targets(random_targets())
    same_position = mapped.rows[1:] == mapped.rows[:-1]
    assert (mapped.ids.diff()[same_position] > 0).all()
    assert mapped.num_entries < random_targets().num_entries


def test_mapping_rows_is_exact_in_float64_and_preserves_sums():
    rows = teacher_probabilities()
    vocabulary = CompactVocabulary(KEPT)
    mapped = vocabulary.map_rows(rows)
    assert torch.equal(mapped[:, :5], rows[:, KEPT])
    torch.testing.assert_close(mapped.sum(1), rows.sum(1), atol=1e-14, rtol=0)


def test_vocabulary_does_not_depend_on_the_draws_of_the_other_sequences():
    store = toy_store(5)
    kept = CompactVocabulary.from_store(store, entries_of=[4]).kept
    tokens = {int(token) for sequence in store for token in sequence.tokens}
    assert set(kept.tolist()) == tokens | set(store[4].targets.ids.tolist())


@pytest.mark.parametrize("kept", [torch.tensor([3, 3]), torch.tensor([4, 1]), torch.tensor([-1, 2])])
def test_kept_ids_that_do_not_ascend_from_zero_are_refused(kept):
    with pytest.raises(InvalidInput, match="ascending"):
        CompactVocabulary(kept)


def test_rows_narrower_than_the_kept_ids_are_refused():
    with pytest.raises(InvalidInput, match="keeps id 41"):
        CompactVocabulary(KEPT).map_rows(torch.ones(2, 41))
