import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logitstore.build.packing import pack_documents
from logitstore.errors import InvalidInput

BOS, EOD = 100, 101


def arrays(documents):
    return [np.array(document, dtype=np.int32) for document in documents]


def packed(documents, **options):
    options = {"seq_len": 4, "bos_id": BOS, "eod_id": EOD} | options
    sequences = list(pack_documents(arrays(documents), **options))
    for sequence in sequences:
        assert sequence.tokens.dtype == sequence.document_starts.dtype == np.int32
    return [(sequence.tokens.tolist(), sequence.document_starts.tolist()) for sequence in sequences]


def oracle(documents, *, seq_len, pack, bos_id, eod_id, limit_tokens):
    """Everything in Python lists: join, cut into pieces, put BOS before each, cut at the limit."""
    head = [] if bos_id is None else [bos_id]
    streams = [[]]
    for document in filter(None, documents):
        ends = eod_id is None or document[-1] == eod_id
        marked = [(token, i == 0) for i, token in enumerate(document)] + ([] if ends else [(eod_id, False)])
        if pack:
            streams[0].extend(marked)
        else:
            streams.append(marked)
    body = seq_len - len(head)
    pieces = [stream[i : i + body] for stream in streams for i in range(0, len(stream), body)]
    stored = [[(token, False) for token in head] + piece for piece in pieces]
    left = sum(map(len, stored)) if limit_tokens is None else limit_tokens
    sequences = []
    for sequence in stored:
        cut = sequence[:left]
        left -= len(cut)
        if len(cut) > len(head):
            tokens = [token for token, _ in cut]
            sequences.append((tokens, [i for i, (_, begins) in enumerate(cut) if begins]))
    return sequences


tokens_of_a_document = st.lists(st.sampled_from([0, 1, 2, BOS, EOD]), max_size=12)


@settings(max_examples=400, deadline=None)
@given(
    documents=st.lists(tokens_of_a_document, max_size=8),
    seq_len=st.integers(2, 9),
    pack=st.booleans(),
    bos_id=st.sampled_from([None, BOS]),
    eod_id=st.sampled_from([None, EOD]),
    limit_tokens=st.none() | st.integers(2, 60),
)
def test_sequences_equal_those_cut_from_plain_lists(documents, **options):
    assert packed(documents, **options) == oracle(documents, **options)


@settings(max_examples=200, deadline=None)
@given(documents=st.lists(tokens_of_a_document, max_size=8), limit=st.integers(2, 60), pack=st.booleans())
def test_limit_keeps_a_prefix_of_the_stored_tokens(documents, limit, pack):
    everything = [token for tokens, _ in packed(documents, pack=pack) for token in tokens]
    limited = [token for tokens, _ in packed(documents, pack=pack, limit_tokens=limit) for token in tokens]
    assert limited == everything[: len(limited)]
    wanted = min(limit, len(everything))
    # sequences of four with BOS first: a cut after one token more than a whole number of them would leave BOS alone
    assert len(limited) == wanted or (len(limited) == wanted - 1 and everything[len(limited)] == BOS)


def test_packed_rows_run_across_documents_with_bos_first():
    assert packed([[1, 2], [3, 4, 5]]) == [([BOS, 1, 2, EOD], [1]), ([BOS, 3, 4, 5], [1]), ([BOS, EOD], [])]


def test_rows_without_bos_are_stream_tokens_alone():
    assert packed([[1, 2], [3, 4, 5]], bos_id=None) == [([1, 2, EOD, 3], [0, 3]), ([4, 5, EOD], [])]


def test_documents_apart_never_share_a_sequence():
    wanted = [([BOS, 1, EOD], [1]), ([BOS, 2, 3, 4], [1]), ([BOS, 5, EOD], [])]
    assert packed([[1], [2, 3, 4, 5]], pack=False) == wanted


def test_document_that_fills_its_sequence_leaves_no_lone_bos():
    assert packed([[1, 2]], pack=False) == [([BOS, 1, 2, EOD], [1])]
    assert packed([[1, 2]]) == [([BOS, 1, 2, EOD], [1])]


def test_document_that_ends_with_the_token_gets_no_second_one():
    assert packed([[1, EOD], [EOD]]) == [([BOS, 1, EOD, EOD], [1, 3])]


def test_documents_without_tokens_are_skipped():
    assert packed([[], [1], []]) == [([BOS, 1, EOD], [1])]
    assert packed([[], []], pack=False) == []


@pytest.mark.parametrize(("limit", "stored"), [(4, 4), (5, 4), (6, 6), (7, 7), (8, 8), (9, 8), (10, 10), (11, 10)])
def test_limit_counts_bos_and_drops_one_left_alone(limit, stored):
    # three sequences of 4, 4 and 2 tokens
    assert sum(len(tokens) for tokens, _ in packed([[1, 2, 3, 4, 5, 6]], limit_tokens=limit)) == stored


def test_limit_cuts_document_starts_with_the_tokens():
    assert packed([[1], [2]], seq_len=9, limit_tokens=3) == [([BOS, 1, EOD], [1])]
    assert packed([[1], [2]], seq_len=9, limit_tokens=4) == [([BOS, 1, EOD, 2], [1, 3])]


@pytest.mark.parametrize("pack", [True, False])
def test_no_document_is_taken_after_the_limit(pack):
    def documents():
        yield np.array([1, 2, 3], dtype=np.int32)
        raise AssertionError("the second document was asked for")

    sequences = pack_documents(documents(), seq_len=9, pack=pack, bos_id=BOS, eod_id=None, limit_tokens=4)
    assert [sequence.tokens.tolist() for sequence in sequences] == [[BOS, 1, 2, 3]]


def test_sequences_come_before_the_next_document_is_taken():
    taken = []

    def documents():
        for number in range(3):
            taken.append(number)
            yield np.full(3, number, dtype=np.int32)

    sequences = pack_documents(documents(), seq_len=4, bos_id=BOS, eod_id=None)
    assert taken == []
    next(sequences)
    assert taken == [0]


@pytest.mark.parametrize("pack", [True, False])
def test_long_document_is_never_copied_as_a_whole(pack):
    # copying what is left of the document for each sequence would be quadratic, and would show as 16 MB at once
    document = np.arange(4_000_000, dtype=np.int32)
    tracemalloc.start()
    try:
        count = sum(len(s.tokens) for s in pack_documents([document], seq_len=4096, pack=pack, bos_id=BOS, eod_id=EOD))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 4_000_001 + -(-4_000_001 // 4095)
    assert peak < 256 * 1024


def test_sequences_own_their_tokens():
    document = np.array([1, 2, 3], dtype=np.int32)
    (sequence,) = pack_documents([document], seq_len=8, bos_id=None, eod_id=None)
    document[:] = 9
    assert sequence.tokens.tolist() == [1, 2, 3]


@pytest.mark.parametrize("wrong", [{"seq_len": 1}, {"seq_len": 0, "bos_id": None}, {"seq_len": 4.0}, {"seq_len": True}])
def test_too_short_a_sequence_is_refused_at_once(wrong):
    with pytest.raises(InvalidInput, match=r"seq_len is .* at least [12] "):
        pack_documents([], **({"seq_len": 4, "bos_id": BOS, "eod_id": EOD} | wrong))


@pytest.mark.parametrize(("limit", "bos_id"), [(1, BOS), (0, BOS), (0, None), (-3, None), (2.5, None)])
def test_too_low_a_limit_is_refused_at_once(limit, bos_id):
    with pytest.raises(InvalidInput, match=r"limit_tokens is .* at least [12] "):
        pack_documents([], seq_len=4, bos_id=bos_id, eod_id=EOD, limit_tokens=limit)


def test_shortest_lengths_without_bos_are_one():
    assert packed([[1, 2]], seq_len=1, bos_id=None, limit_tokens=1) == [([1], [0])]


@pytest.mark.parametrize("document", [np.array([1, 2]), np.zeros((2, 2), dtype=np.int32), np.array([1.0])])
def test_documents_of_another_type_are_refused(document):
    with pytest.raises(InvalidInput, match=r"int32 \[N\] was wanted"):
        list(pack_documents([document], seq_len=4, bos_id=BOS, eod_id=EOD))
