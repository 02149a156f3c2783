"""Sequence arrays for the codec's tests: strategies, comparison, and the rules spelled out position by position."""

import numpy as np
from hypothesis import strategies as st

from logitstore.codec import STATISTICS, SequenceArrays, WeightForm

LAST_ID = (1 << 20) - 1


def build(form, positions, values, *, tokens=None, scale=0, statistics=None):
    """Arrays from one (head ids, tail ids) pair a position; without HEAD_GRID the two are joined."""
    tokens = range(len(positions)) if tokens is None else tokens
    with_head = form == WeightForm.HEAD_GRID
    groups = [(sorted(h), sorted(t)) if with_head else (sorted({*h, *t}), []) for h, t in positions]
    is_integer = form in (WeightForm.COUNTS, WeightForm.HEAD_GRID)
    return SequenceArrays(
        tokens=np.array(tokens, np.int32),
        counts=np.array([len(h) + len(t) for h, t in groups], np.int64),
        ids=np.array([i for h, t in groups for i in h + t], np.int32),
        form=form,
        values=np.array(values, np.uint32 if is_integer else np.float32),
        scale=scale,
        head_counts=np.array([len(h) for h, _ in groups], np.int64) if with_head else None,
        statistics=statistics or {},
    )


_ids = st.lists(st.one_of(st.integers(0, 40), st.integers(0, LAST_ID), st.just(LAST_ID)), max_size=9, unique=True)


@st.composite
def sequences(draw, form):
    positions = draw(st.lists(st.tuples(_ids, _ids), max_size=12))
    num_tokens = len(positions)
    scale, values = 0, []
    if form == WeightForm.HEAD_GRID:
        scale = draw(st.sampled_from([9, 64, 2**16, 2**32 - 1]))
        for head, _ in positions:
            values += [draw(st.integers(1, scale // len(head))) for _ in head]
    else:
        scale = draw(st.sampled_from([1, 50, 300, 2**32 - 1])) if form == WeightForm.COUNTS else 0
        value = {
            WeightForm.COUNTS: st.integers(1, max(scale, 1)),
            WeightForm.PROBABILITIES: st.floats(2.0**-31, 1, width=32),
            WeightForm.FLOAT32: st.floats(width=32, allow_nan=False, allow_infinity=False),
        }[form]
        num_entries = sum(len({*head, *tail}) for head, tail in positions)
        values = draw(st.lists(value, min_size=num_entries, max_size=num_entries))
    names = draw(st.sets(st.sampled_from(STATISTICS)))
    statistic = st.lists(st.floats(width=32), min_size=num_tokens, max_size=num_tokens)
    return build(
        form,
        positions,
        values,
        tokens=draw(st.lists(st.integers(0, LAST_ID), min_size=num_tokens, max_size=num_tokens)),
        scale=scale,
        statistics={name: np.array(draw(statistic), np.float32) for name in names},
    )


def random_sequence(form, *, num_tokens=600, width=12, vocab_size=5000, seed=0):
    """A sequence long enough for compressed sections, with an empty position and a full set of statistics."""
    rng = np.random.default_rng(seed)
    positions = []
    for t in range(num_tokens):
        ids = [] if t == 3 else rng.choice(vocab_size, 1 + t % width, replace=False).tolist()
        head = rng.integers(0, min(4, len(ids)), endpoint=True)
        positions.append((ids[:head], ids[head:]))
    num_heads, num_entries = sum(len(h) for h, _ in positions), sum(len(h) + len(t) for h, t in positions)
    values, scale = {
        WeightForm.COUNTS: (np.minimum(rng.geometric(0.4, num_entries), 50), 50),
        WeightForm.PROBABILITIES: (rng.uniform(0.001, 1, num_entries), 0),
        WeightForm.FLOAT32: (rng.standard_normal(num_entries), 0),
        WeightForm.HEAD_GRID: (rng.integers(1, 16, num_heads, endpoint=True), 64),
    }[form]
    return build(
        form,
        positions,
        values,
        tokens=rng.zipf(1.3, num_tokens) % vocab_size,
        scale=scale,
        statistics={name: rng.random(num_tokens, np.float32) for name in STATISTICS},
    )


def assert_same(found, wanted, *, values=True):
    """Every array has the same dtype and the same bits."""
    assert (found.form, found.scale) == (wanted.form, wanted.scale)
    assert set(found.statistics) == set(wanted.statistics)
    pairs = [(getattr(found, name), getattr(wanted, name)) for name in ("tokens", "counts", "ids")]
    pairs += [(found.statistics[name], wanted.statistics[name]) for name in wanted.statistics]
    pairs += [(found.values, wanted.values)] if values else []
    assert (found.head_counts is None) == (wanted.head_counts is None)
    if wanted.head_counts is not None:
        pairs.append((found.head_counts, wanted.head_counts))
    for a, b in pairs:
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()


def assert_keeps_the_rules(arrays):
    """The rules of SequenceArrays, one position after the other, without the codec's own checks."""
    assert all(0 <= token <= LAST_ID for token in arrays.tokens.tolist())
    counts, ids, values = arrays.counts.tolist(), arrays.ids.tolist(), arrays.values.tolist()
    heads = counts if arrays.head_counts is None else arrays.head_counts.tolist()
    assert len(counts) == len(heads) == len(arrays.tokens)
    assert sum(counts) == len(ids)
    assert sum(heads) == len(values)
    start = first_value = 0
    for count, head in zip(counts, heads, strict=True):
        assert 0 <= head <= count <= 65_535
        entries = ids[start : start + count]
        for group in (entries[:head], entries[head:]):
            assert group == sorted(set(group))
            assert all(0 <= i <= LAST_ID for i in group)
        numerators = values[first_value : first_value + head]
        if arrays.form in (WeightForm.COUNTS, WeightForm.HEAD_GRID):
            assert all(1 <= value <= arrays.scale for value in numerators)
        if arrays.form == WeightForm.HEAD_GRID:
            assert sum(numerators) <= arrays.scale
        if arrays.form == WeightForm.PROBABILITIES:
            assert all(0 < value <= 1 for value in numerators)
        assert all(np.isfinite(numerators))
        start, first_value = start + count, first_value + head
    assert all(len(statistic) == len(counts) for statistic in arrays.statistics.values())
