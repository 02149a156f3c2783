from __future__ import annotations

import pytest
import torch

from logitstore.errors import InvalidInput
from logitstore.loader import Batch, LogitDataset, Sample, collate_samples
from logitstore.loader.labels import position_labels
from logitstore.store import Sequence
from logitstore.targets import PaddedTargets, SparseTargets
from tests.loader.small_stores import EOD_ID, assert_same_tensors, make_store

LENGTHS = [4, 9, 1, 6]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("collation") / "store"
    return LogitDataset(make_store(path, LENGTHS, masked=[(1, 2), (1, 8), (3, 0)], document_starts=[0, 3]))


def sequence_of(tokens, counts=None, document_starts=()) -> Sequence:
    counts = torch.tensor([1] * len(tokens) if counts is None else counts)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    num_entries = int(counts.sum())
    targets = SparseTargets(offsets, torch.zeros(num_entries, dtype=torch.int32), torch.ones(num_entries))
    starts = torch.tensor(document_starts, dtype=torch.int32)
    return Sequence(0, torch.tensor(tokens, dtype=torch.int32), targets, starts)


def sample_with(**fields) -> Sample:
    offsets, ids = torch.tensor([0, 2, 3]), torch.tensor([4, 5, 6], dtype=torch.int32)
    targets = SparseTargets(offsets, ids, torch.tensor([0.5, 0.5, 1.0]), **fields)
    return Sample(7, torch.tensor([1, 2], dtype=torch.int32), torch.tensor([2, -100]), targets)


@pytest.mark.parametrize(
    ("sequence", "eod_id", "wanted"),
    [
        (sequence_of([5, 6, 7]), None, [6, 7, -100]),
        (sequence_of([5]), None, [-100]),
        (sequence_of([5, 3, 7, 8]), 3, [3, -100, 8, -100]),
        (sequence_of([5, 3, 7, 8]), None, [3, 7, 8, -100]),
        (sequence_of([5, 6, 7, 8], document_starts=[0, 2, 3]), None, [6, -100, -100, -100]),
        (sequence_of([5, 6, 7, 8], counts=[1, 0, 2, 0]), None, [6, -100, 8, -100]),
    ],
    ids=["shifted", "single-token", "after-eod", "no-eod", "document-starts", "masked"],
)
def test_label_is_the_next_token_where_there_is_one_to_learn(sequence, eod_id, wanted):
    labels = position_labels(sequence, eod_id)
    assert labels.dtype == torch.int64
    assert labels.tolist() == wanted


def test_labels_of_a_store_follow_its_end_of_document_id(dataset):
    for sample in dataset:
        sequence = dataset.store[sample.sequence_id]
        assert torch.equal(sample.labels, position_labels(sequence, EOD_ID))
        assert (sample.labels[sequence.targets.counts == 0] == -100).all()


def test_batches_hold_what_their_samples_hold(dataset):
    samples = list(dataset)
    batch = dataset.collate(samples)
    num_sequences, longest = len(LENGTHS), max(LENGTHS)
    assert len(batch) == num_sequences
    assert batch.tokens.shape == batch.labels.shape == (num_sequences, longest)
    for tensor in (batch.tokens, batch.labels, batch.lengths, batch.sequence_ids):
        assert tensor.dtype == torch.int64
    assert batch.targets.num_positions == num_sequences * longest
    for row, sample in enumerate(samples):
        length = len(sample.tokens)
        assert batch.sequence_ids[row] == sample.sequence_id
        assert batch.lengths[row] == length
        assert torch.equal(batch.tokens[row, :length], sample.tokens.long())
        assert torch.equal(batch.labels[row, :length], sample.labels)
        first = row * longest
        assert_same_tensors(batch.targets.slice(first, first + length), sample.targets)


def test_padding_has_token_zero_no_label_no_entries_and_no_attention(dataset):
    batch = dataset.collate(list(dataset))
    padding = batch.attention_mask == 0
    assert batch.attention_mask.sum(1).tolist() == batch.lengths.tolist()
    assert padding.any()
    assert (batch.tokens[padding] == 0).all()
    assert (batch.labels[padding] == -100).all()
    assert (batch.targets.counts.view(padding.shape)[padding] == 0).all()
    assert torch.equal(padding, torch.arange(max(LENGTHS)) >= batch.lengths[:, None])


def test_both_layouts_hold_the_same_targets(dataset):
    samples = list(dataset)
    csr, padded = (dataset.collate(samples, layout=layout) for layout in ("csr", "padded"))
    assert isinstance(csr.targets, SparseTargets)
    assert isinstance(padded.targets, PaddedTargets)
    assert padded.targets.ids.shape == (csr.targets.num_positions, int(csr.targets.counts.max()))
    assert torch.equal(padded.targets.ids[padded.targets.ids >= 0], csr.targets.ids)
    assert torch.equal(padded.targets.weights[padded.targets.ids >= 0], csr.targets.weights)
    assert torch.equal((padded.targets.ids >= 0).sum(1), csr.targets.counts)
    assert torch.equal(padded.tokens, csr.tokens)
    assert padded.targets.sampler == csr.targets.sampler == "random-sampling"


def assert_close_or_nan(found, wanted):
    torch.testing.assert_close(found, torch.tensor(wanted), equal_nan=True)


def test_fields_of_positions_are_padded_along():
    fields = {
        "head_counts": torch.tensor([1, 0], dtype=torch.int32),
        "teacher_entropy": torch.tensor([0.7, 0.1]),
        "label_probability": torch.tensor([0.25, float("nan")]),
        "top1_probability": torch.tensor([0.5, 0.75]),
        "probabilities": torch.tensor([0.5, 0.25, 0.125]),
    }
    longer = sample_with(**fields)
    shorter = Sample(8, longer.tokens[:1], longer.labels[:1], longer.targets.slice(0, 1))
    targets = collate_samples([shorter, longer]).targets
    assert targets.counts.tolist() == [2, 0, 2, 1]
    assert targets.head_counts.tolist() == [1, 0, 1, 0]
    torch.testing.assert_close(targets.teacher_entropy, torch.tensor([0.7, 0.0, 0.7, 0.1]))
    nan = float("nan")
    assert_close_or_nan(targets.label_probability, [0.25, nan, 0.25, nan])
    assert_close_or_nan(targets.top1_probability, [0.5, 0.0, 0.5, 0.75])
    assert targets.probabilities.tolist() == [0.5, 0.25, 0.5, 0.25, 0.125]


def test_moving_a_batch_moves_every_tensor(dataset):
    for layout in ("csr", "padded"):
        moved = dataset.collate([dataset[0]], layout=layout).to("meta", non_blocking=True)
        tensors = [
            moved.tokens,
            moved.labels,
            moved.lengths,
            moved.sequence_ids,
            moved.targets.ids,
            moved.targets.weights,
        ]
        assert {tensor.device.type for tensor in tensors} == {"meta"}
        assert moved.attention_mask.device.type == "meta"
        assert isinstance(moved, Batch)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs CUDA")
def test_pinning_a_batch_pins_every_tensor(dataset):
    batch = dataset.collate([dataset[0]]).pin_memory()
    assert batch.tokens.is_pinned()
    assert batch.targets.weights.is_pinned()


def test_no_samples_and_unknown_layouts_are_refused(dataset):
    with pytest.raises(InvalidInput, match="no samples"):
        dataset.collate([])
    with pytest.raises(InvalidInput, match="layout is 'coo'; 'csr' or 'padded' was wanted"):
        dataset.collate([dataset[0]], layout="coo")
