"""The label of each position: the token that really came next, where there is one to learn."""

# S tokens of a sequence

from __future__ import annotations

from torch import Tensor, int64

#: a position with this label has nothing to learn from its label
IGNORED_LABEL = -100


def token_labels(tokens: Tensor, document_starts: Tensor, eod_id: int | None) -> Tensor:
    """Return the label of each position, [S] int64: tokens[t + 1] for position t, already shifted.

    It is -100 at the last position, at end-of-document tokens, and where position t + 1 starts a document. (Readers
    put it at masked positions too.)

    Args:
        tokens: token ids, [S] int32 or int64, S >= 1.
        document_starts: ascending offsets into `tokens`, integers.
        eod_id: the end-of-document token, where there is one.
    """
    labels = tokens.new_full(tokens.shape, IGNORED_LABEL, dtype=int64)
    labels[:-1] = tokens[1:]
    if eod_id is not None:
        labels[tokens == eod_id] = IGNORED_LABEL
    # a document that starts at 0 comes out at the last position, which has no label anyway
    labels[document_starts.long() - 1] = IGNORED_LABEL
    return labels
