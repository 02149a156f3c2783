"""The label of each position: the token that really came next, where there is one to learn."""

# S tokens of a sequence

from __future__ import annotations

from torch import Tensor, int64

from logitstore.store import Sequence

#: a position with this label has nothing to learn from its label
IGNORED_LABEL = -100


def position_labels(sequence: Sequence, eod_id: int | None) -> Tensor:
    """Return the label of each position, [S] int64: tokens[t + 1] for position t, already shifted.

    It is -100 at the last position, at end-of-document tokens, where position t + 1 starts a document, and where the
    position is masked (has no entries).
    """
    tokens = sequence.tokens
    labels = tokens.new_full(tokens.shape, IGNORED_LABEL, dtype=int64)
    labels[:-1] = tokens[1:]
    if eod_id is not None:
        labels[tokens == eod_id] = IGNORED_LABEL
    # a document that starts at 0 comes out at the last position, which has no label anyway
    labels[sequence.document_starts.long() - 1] = IGNORED_LABEL
    labels[sequence.targets.counts == 0] = IGNORED_LABEL
    return labels
