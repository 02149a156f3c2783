import dataclasses
import itertools
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from logitstore.errors import InvalidInput
from logitstore.targets import PAD_ID, STATISTIC_FIELDS, PaddedTargets, SparseTargets, check_ids, concatenate_targets

VOCAB = 12


def make_targets(counts, *, seed=0, **fields) -> SparseTargets:
    """Targets with every optional tensor, `counts[t]` entries at position t."""
    generator = torch.Generator().manual_seed(seed)
    num_entries, num_positions = sum(counts), len(counts)
    orders = [torch.randperm(VOCAB, generator=generator)[:count] for count in counts]
    tensors = {
        "offsets": torch.tensor([0, *counts]).cumsum(0),
        "ids": torch.cat([torch.empty(0, dtype=torch.int64), *orders]).int(),
        "weights": torch.rand(num_entries, generator=generator),
        "head_counts": torch.tensor([count // 2 for count in counts], dtype=torch.int32),
        "probabilities": torch.rand(num_entries, generator=generator),
        **{name: torch.rand(num_positions, generator=generator) for name in STATISTIC_FIELDS.values()},
    }
    return SparseTargets(**{**tensors, "sampler": "threshold", "teacher_temperature": 1.5, **fields})


def as_rows(targets: SparseTargets) -> list[dict[int, float]]:
    """What each position holds, read entry by entry."""
    bounds = targets.offsets.tolist()
    pairs = list(zip(targets.ids.tolist(), targets.weights.tolist(), strict=True))
    return [dict(pairs[start:stop]) for start, stop in itertools.pairwise(bounds)]


def assert_equal_targets(one, other) -> None:
    assert type(one) is type(other)
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype, field.name
            assert torch.equal(a, b), field.name
        else:
            assert a == b, field.name


counts_of_positions = st.lists(st.integers(0, 7), max_size=8)
TARGETS = make_targets([2, 0, 3, 1])


# forms


@settings(max_examples=60, deadline=None)
@given(counts_of_positions, st.integers(0, 3), st.integers(0, 99))
def test_csr_padded_and_dense_hold_the_same_entries(counts, extra_width, seed):
    targets = make_targets(counts, seed=seed)
    rows = as_rows(targets)
    assert (targets.num_positions, targets.num_entries) == (len(counts), sum(counts))
    assert targets.counts.tolist() == counts
    assert targets.rows.tolist() == [row for row, count in enumerate(counts) for _ in range(count)]

    dense = targets.to_dense(VOCAB)
    assert dense.shape == (len(counts), VOCAB)
    assert dense.tolist() == [[row.get(token, 0.0) for token in range(VOCAB)] for row in rows]

    width = max(counts, default=0) + extra_width
    padded = targets.to_padded(width)
    assert padded.num_positions == len(counts)
    assert padded.ids.shape == padded.weights.shape == (len(counts), width)
    for row, ids, weights in zip(rows, padded.ids.tolist(), padded.weights.tolist(), strict=True):
        missing = width - len(row)
        assert ids == list(row) + [PAD_ID] * missing
        assert weights == list(row.values()) + [0.0] * missing


def test_padded_targets_are_by_default_as_wide_as_the_widest_position():
    assert TARGETS.to_padded().ids.shape == (4, 3)
    assert make_targets([0, 0]).to_padded().ids.shape == (2, 0)
    assert make_targets([]).to_padded().ids.shape == (0, 0)


def test_padded_targets_keep_what_describes_positions():
    padded = TARGETS.to_padded()
    for name in STATISTIC_FIELDS.values():
        assert torch.equal(getattr(padded, name), getattr(TARGETS, name)), name
    assert (padded.sampler, padded.teacher_temperature) == ("threshold", 1.5)


def test_padded_targets_unpack_into_ids_and_weights():
    padded = TARGETS.to_padded()
    ids, weights = padded
    assert ids is padded.ids
    assert weights is padded.weights


def test_repeated_ids_add_up_in_dense_rows():
    targets = SparseTargets(torch.tensor([0, 2]), torch.tensor([1, 1]).int(), torch.tensor([0.25, 0.5]))
    assert targets.to_dense(3).tolist() == [[0, 0.75, 0]]


# slices and joins


@settings(max_examples=60, deadline=None)
@given(counts_of_positions, st.integers(-10, 10), st.integers(-10, 10))
def test_a_slice_holds_the_positions_of_a_python_slice(counts, start, stop):
    targets = make_targets(counts)
    part = targets.slice(start, stop)
    chosen = range(len(counts))[start:stop]
    assert as_rows(part) == as_rows(targets)[start:stop]
    assert part.head_counts.tolist() == [counts[i] // 2 for i in chosen]
    for name in STATISTIC_FIELDS.values():
        assert torch.equal(getattr(part, name), getattr(targets, name)[start:stop]), name
    kept = torch.isin(targets.rows, torch.tensor(list(chosen), dtype=torch.int64))
    assert torch.equal(part.probabilities, targets.probabilities[kept])
    assert (part.sampler, part.teacher_temperature) == ("threshold", 1.5)


@settings(max_examples=60, deadline=None)
@given(counts_of_positions, st.lists(st.integers(0, 8), max_size=3))
def test_slices_put_together_again_are_the_whole(counts, cuts):
    targets = make_targets(counts)
    bounds = [0, *sorted(min(cut, len(counts)) for cut in cuts), len(counts)]
    parts = [targets.slice(start, stop) for start, stop in itertools.pairwise(bounds)]
    assert_equal_targets(concatenate_targets(parts), targets)


def test_targets_without_optional_tensors_are_sliced_and_joined():
    bare = SparseTargets(TARGETS.offsets, TARGETS.ids, TARGETS.weights)
    assert_equal_targets(concatenate_targets([bare.slice(0, 2), bare.slice(2, 4)]), bare)


def test_joining_nothing_is_refused():
    with pytest.raises(InvalidInput, match="no sparse targets to concatenate"):
        concatenate_targets([])


@pytest.mark.parametrize("field", ["head_counts", "probabilities", *STATISTIC_FIELDS.values()])
def test_joining_targets_with_and_without_an_optional_tensor_is_refused(field):
    without = dataclasses.replace(TARGETS, **{field: None})
    for parts in ([TARGETS, without], [without, TARGETS]):
        with pytest.raises(InvalidInput, match=f"some of the sparse targets have {field}"):
            concatenate_targets(parts)


@pytest.mark.parametrize(("field", "other"), [("sampler", "top-k"), ("sampler", None), ("teacher_temperature", 1.0)])
def test_joining_targets_of_different_origin_is_refused(field, other):
    with pytest.raises(InvalidInput, match=f"of different {field} cannot be joined"):
        concatenate_targets([TARGETS, dataclasses.replace(TARGETS, **{field: other})])


# bad inputs


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("offsets", torch.zeros(5), "offsets is torch.float32"),
        ("offsets", torch.zeros(5).int(), "offsets is torch.int32"),
        ("offsets", torch.zeros(5, 1).long(), r"offsets is torch.int64 with shape \(5, 1\)"),
        ("offsets", torch.zeros(0).long(), "offsets are empty"),
        ("offsets", [0, 2, 2, 5, 6], "offsets is a list"),
        ("ids", torch.zeros(6).long(), "ids is torch.int64"),
        ("ids", torch.zeros(6, 1).int(), r"ids is torch.int32 with shape \(6, 1\)"),
        ("weights", torch.zeros(6).double(), "weights is torch.float64"),
        ("weights", torch.zeros(5), "weights has 5 values; 6 were wanted"),
        ("weights", None, "weights is a NoneType"),
        ("head_counts", torch.zeros(4).long(), "head_counts is torch.int64"),
        ("head_counts", torch.zeros(6).int(), "head_counts has 6 values; 4 were wanted"),
        ("probabilities", torch.zeros(6).half(), "probabilities is torch.float16"),
        ("probabilities", torch.zeros(4), "probabilities has 4 values; 6 were wanted"),
        ("teacher_entropy", torch.zeros(4).double(), "teacher_entropy is torch.float64"),
        ("teacher_entropy", torch.zeros(4, 1), r"teacher_entropy is torch.float32 with shape \(4, 1\)"),
        ("teacher_entropy", torch.zeros(5), "teacher_entropy has 5 values; 4 were wanted"),
        ("label_probability", torch.zeros(5), "label_probability has 5 values; 4 were wanted"),
        ("top1_probability", torch.zeros(4).half(), "top1_probability is torch.float16"),
    ],
)
def test_a_wrong_tensor_is_named(field, value, message):
    with pytest.raises(InvalidInput, match=message):
        dataclasses.replace(TARGETS, **{field: value})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("ids", torch.zeros(4, 3).long(), "ids is torch.int64"),
        ("ids", torch.zeros(12).int(), r"ids is torch.int32 with shape \(12,\)"),
        ("ids", torch.zeros(4, 2).int(), r"ids have shape \(4, 2\) and weights \(4, 3\)"),
        ("weights", torch.zeros(4, 3).double(), "weights is torch.float64"),
        ("weights", torch.zeros(3, 4), r"ids have shape \(4, 3\) and weights \(3, 4\)"),
        ("teacher_entropy", torch.zeros(3), "teacher_entropy has 3 values; 4 were wanted"),
        ("label_probability", torch.zeros(3), "label_probability has 3 values; 4 were wanted"),
        ("top1_probability", torch.zeros(4).int(), "top1_probability is torch.int32"),
        ("teacher_entropy", torch.zeros(4).int(), "teacher_entropy is torch.int32"),
    ],
)
def test_a_wrong_tensor_of_padded_targets_is_named(field, value, message):
    with pytest.raises(InvalidInput, match=message):
        dataclasses.replace(TARGETS.to_padded(), **{field: value})


@pytest.mark.parametrize("width", [2, 0, -1])
def test_a_width_below_the_widest_position_is_refused(width):
    with pytest.raises(InvalidInput, match=f"a position has 3 entries, more than the width {width}"):
        TARGETS.to_padded(width)


@pytest.mark.parametrize(("ids", "wrong"), [([0, 5], 5), ([-1, 2], -1), ([-3, 9], -3)])
def test_ids_outside_the_vocabulary_are_named(ids, wrong):
    with pytest.raises(InvalidInput, match=f"student hold token id {wrong}") as refusal:
        check_ids(torch.tensor(ids).int(), 5, what="student")
    assert refusal.value.kind == "id-out-of-range"


def test_ids_up_to_the_vocabulary_and_no_ids_are_accepted():
    check_ids(torch.tensor([0, 4]).int(), 5)
    check_ids(torch.empty(0).int(), 0)


def test_dense_rows_too_narrow_for_an_id_are_refused():
    targets = SparseTargets(torch.tensor([0, 1]), torch.tensor([5]).int(), torch.ones(1))
    with pytest.raises(InvalidInput, match="token id 5, which does not fit a vocabulary of 5"):
        targets.to_dense(5)
    assert targets.to_dense(6).shape == (1, 6)


# moving and pickling


@pytest.mark.parametrize("targets", [TARGETS, TARGETS.to_padded()], ids=["csr", "padded"])
def test_moving_takes_every_tensor_and_keeps_the_rest(targets):
    moved = targets.to("meta")
    assert type(moved) is type(targets)
    for field in dataclasses.fields(targets):
        before, after = getattr(targets, field.name), getattr(moved, field.name)
        if isinstance(before, torch.Tensor):
            assert after.device.type == "meta", field.name
            assert (after.shape, after.dtype) == (before.shape, before.dtype), field.name
        else:
            assert after == before, field.name


def test_moving_leaves_what_is_absent_absent():
    moved = SparseTargets(TARGETS.offsets, TARGETS.ids, TARGETS.weights).to("meta")
    assert moved.head_counts is moved.probabilities is moved.sampler is None
    assert moved.statistics == dict.fromkeys(STATISTIC_FIELDS.values())


def test_moving_to_where_they_are_changes_nothing():
    assert_equal_targets(TARGETS.to("cpu", non_blocking=True), TARGETS)


@pytest.mark.parametrize("form", [TARGETS, TARGETS.to_padded(), make_targets([])], ids=["csr", "padded", "empty"])
def test_pickling_gives_equal_targets(form):
    assert_equal_targets(pickle.loads(pickle.dumps(form)), form)


def test_targets_cannot_be_reassigned():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TARGETS.sampler = "top-k"


def test_padded_targets_of_their_own_need_no_more_than_ids_and_weights():
    padded = PaddedTargets(torch.full((2, 3), PAD_ID, dtype=torch.int32), torch.zeros(2, 3))
    assert (padded.sampler, padded.teacher_temperature) == (None, 1.0)
    assert padded.statistics == dict.fromkeys(STATISTIC_FIELDS.values())


def test_tensors_on_different_devices_are_refused():
    offsets, ids = torch.tensor([0, 1]), torch.zeros(1, dtype=torch.int32)
    with pytest.raises(InvalidInput, match="weights on meta"):
        SparseTargets(offsets, ids, torch.zeros(1, device="meta"))
    with pytest.raises(InvalidInput, match="weights on meta"):
        PaddedTargets(ids[None], torch.zeros(1, 1, device="meta"))
