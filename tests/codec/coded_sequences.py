"""Sequences and tables for the tests of the coder: strategies, tables to go with them, and rules spelled out."""

from functools import cache

import numpy as np
from hypothesis import strategies as st

from logitstore.codec.arrays import STATISTICS, SequenceArrays, WeightForm
from logitstore.codec.table import FrequencyTable

#: not a power of two, so that the last cells are small ones
VOCAB_SIZE = 1000
LARGEST_VOCABULARY = 1 << 20
SCALES = {WeightForm.COUNTS: 50, WeightForm.PROBABILITIES: 255, WeightForm.FLOAT32: 0, WeightForm.HEAD_GRID: 64}


def build(form, positions, values, *, tokens=None, scale=None, statistics=None):
    """Arrays from one (head ids, tail ids) pair a position; without HEAD_GRID the two are joined."""
    with_head = form == WeightForm.HEAD_GRID
    groups = [(sorted(h), sorted(t)) if with_head else (sorted({*h, *t}), []) for h, t in positions]
    is_integer = form in (WeightForm.COUNTS, WeightForm.HEAD_GRID)
    return SequenceArrays(
        tokens=np.array(range(len(positions)) if tokens is None else tokens, np.int32),
        counts=np.array([len(h) + len(t) for h, t in groups], np.int64),
        ids=np.array([i for h, t in groups for i in h + t], np.int32),
        form=form,
        values=np.array(values, np.uint32 if is_integer else np.float32),
        scale=SCALES[form] if scale is None else scale,
        head_counts=np.array([len(h) for h, _ in groups], np.int64) if with_head else None,
        statistics=statistics or {},
    )


def split_evenly(total, parts):
    """`parts` whole numbers from 1 on that add up to `total`."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def random_sequence(form, *, num_tokens=300, width=12, vocab_size=VOCAB_SIZE, seed=0, scale=None, statistics=True):
    """Positions of every kind: masked, with and without a tail, with the label in the head, in the tail, nowhere."""
    rng = np.random.default_rng(seed)
    scale = SCALES[form] if scale is None else scale
    tokens = rng.zipf(1.3, num_tokens) % vocab_size
    positions, values = [], []
    for t in range(num_tokens):
        ids = set() if t == 3 else set((rng.zipf(1.2, 1 + rng.integers(width)) % vocab_size).tolist())
        if t + 1 < num_tokens and t % 3 and ids:
            ids.add(int(tokens[t + 1]))
        ids = rng.permutation(list(ids)).tolist()
        heads = int(rng.integers(0, min(4, len(ids)), endpoint=True)) if t % 5 else len(ids)
        positions.append((ids[:heads], ids[heads:]))
        if form == WeightForm.HEAD_GRID:
            total = scale if heads == len(ids) else rng.integers(heads, max(heads, scale - 1), endpoint=True)
            values += split_evenly(int(total), heads) if heads else []
        elif form == WeightForm.COUNTS:
            values += split_evenly(scale, len(ids)) if ids else []
    num_entries = sum(len(h) + len(t) for h, t in positions)
    if form == WeightForm.PROBABILITIES:
        values = rng.uniform(1e-7, 1, num_entries) ** 3
    elif form == WeightForm.FLOAT32:
        values = rng.standard_normal(num_entries)
    named = {name: rng.random(num_tokens, np.float32) for name in STATISTICS} if statistics else {}
    return build(form, positions, values, tokens=tokens, scale=scale, statistics=named)


@cache
def table_for(form, scale=None, vocab_size=VOCAB_SIZE, samples=2):
    """A table fitted to `samples` random sequences; with 0 one that has seen nothing."""
    scale = SCALES[form] if scale is None else scale
    fitted = [random_sequence(form, vocab_size=vocab_size, scale=scale, seed=100 + i) for i in range(samples)]
    return FrequencyTable.fit(fitted, vocab_size=vocab_size, form=form, scale=scale)


_ids = st.lists(
    st.one_of(st.integers(0, 40), st.integers(0, VOCAB_SIZE - 1), st.just(VOCAB_SIZE - 1)), max_size=9, unique=True
)


@st.composite
def sequences(draw, form, scale):
    """Sequences below VOCAB_SIZE; tokens are often entries of the position before."""
    positions, values = [], []
    for _ in range(draw(st.integers(0, 12))):
        ids = draw(_ids)
        heads = draw(st.integers(0, len(ids))) if form == WeightForm.HEAD_GRID else len(ids)
        if form == WeightForm.HEAD_GRID and heads < len(ids):
            heads = min(heads, scale - 1)
        elif form in (WeightForm.COUNTS, WeightForm.HEAD_GRID):
            ids = ids[:scale]
            heads = len(ids)
        positions.append((ids[:heads], ids[heads:]))
        if form in (WeightForm.COUNTS, WeightForm.HEAD_GRID) and heads:
            total = scale if heads == len(ids) else draw(st.integers(heads, scale - 1))
            values += draw(st.permutations(split_evenly(total, heads)))
    num_tokens, num_entries = len(positions), sum(len(h) + len(t) for h, t in positions)
    if form == WeightForm.PROBABILITIES:
        values = draw(st.lists(st.floats(2.0**-40, 1, width=32), min_size=num_entries, max_size=num_entries))
    elif form == WeightForm.FLOAT32:
        finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
        values = draw(st.lists(finite, min_size=num_entries, max_size=num_entries))
    tokens = []
    for position in range(num_tokens):
        before = [i for group in positions[position - 1] for i in group] if position else []
        anything = st.integers(0, VOCAB_SIZE - 1)
        tokens.append(draw(st.one_of(st.sampled_from(before), anything) if before else anything))
    names = draw(st.sets(st.sampled_from(STATISTICS)))
    statistic = st.lists(st.floats(width=32), min_size=num_tokens, max_size=num_tokens)
    return build(
        form,
        positions,
        values,
        tokens=tokens,
        scale=scale,
        statistics={name: np.array(draw(statistic), np.float32) for name in names},
    )


def assert_keeps_the_rules(arrays, vocab_size=VOCAB_SIZE):
    """The rules of a sequence, one position after the other, without the codec's own checks."""
    assert all(0 <= token < vocab_size for token in arrays.tokens.tolist())
    counts, ids, values = arrays.counts.tolist(), arrays.ids.tolist(), arrays.values.tolist()
    heads = counts if arrays.head_counts is None else arrays.head_counts.tolist()
    assert len(counts) == len(heads) == len(arrays.tokens)
    assert sum(counts) == len(ids)
    assert sum(heads) == len(values)
    start = first_value = 0
    for count, head in zip(counts, heads, strict=True):
        assert 0 <= head <= count <= 65_535
        entries, own = ids[start : start + count], values[first_value : first_value + head]
        for group in (entries[:head], entries[head:]):
            assert group == sorted(set(group))
            assert all(0 <= i < vocab_size for i in group)
        if arrays.form in (WeightForm.COUNTS, WeightForm.HEAD_GRID) and count:
            assert all(1 <= value <= arrays.scale for value in own)
            assert sum(own) == arrays.scale if head == count else sum(own) < arrays.scale
        if arrays.form == WeightForm.PROBABILITIES:
            assert all(0 < value <= 1 for value in own)
        assert all(np.isfinite(own))
        start, first_value = start + count, first_value + head
    assert all(len(statistic) == len(counts) for statistic in arrays.statistics.values())


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
