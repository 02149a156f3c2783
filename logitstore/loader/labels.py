"""The labels of a stored sequence, masked positions included."""

# S tokens of a sequence

from __future__ import annotations

from torch import Tensor

from logitstore.store import Sequence
from logitstore.store.labels import IGNORED_LABEL, token_labels

__all__ = ["IGNORED_LABEL", "position_labels"]


def position_labels(sequence: Sequence, eod_id: int | None) -> Tensor:
    """Return the label of each position, [S] int64: tokens[t + 1] for position t, already shifted.

    It is -100 at the last position, at end-of-document tokens, where position t + 1 starts a document, and where the
    position is masked (has no entries).
    """
    labels = token_labels(sequence.tokens, sequence.document_starts, eod_id)
    labels[sequence.targets.counts == 0] = IGNORED_LABEL
    return labels
