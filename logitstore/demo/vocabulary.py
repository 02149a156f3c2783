"""A small vocabulary for a small student: the ids that matter here, and one id for all others."""

# T positions, V teacher's vocabulary, C compact vocabulary, E entries

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from logitstore.errors import InvalidInput
from logitstore.targets import SparseTargets

IGNORED_LABEL = -100


@dataclass(frozen=True, eq=False)
class CompactVocabulary:
    """A many-to-one map from the teacher's ids to C columns, the last of which stands for every id not kept.

    The map is linear on weights and probabilities: the weights of ids that fall together are added. So it commutes
    with taking expectations, and unbiased targets stay unbiased, as long as the kept ids do not depend on the draws
    of the targets that are mapped.

    Attributes:
        kept: the teacher's ids that have a column of their own, ascending, [C - 1] int64.

    Raises:
        InvalidInput: ids that are not ascending, negative, or none at all.
    """

    kept: Tensor

    def __post_init__(self) -> None:
        if self.kept.dtype != torch.int64 or self.kept.ndim != 1 or len(self.kept) == 0:
            raise InvalidInput(
                f"kept ids are {self.kept.dtype} with shape {tuple(self.kept.shape)}; "
                "a row of at least one int64 was wanted."
            )
        if int(self.kept[0]) < 0 or bool((self.kept.diff() <= 0).any()):
            raise InvalidInput("kept ids must be ascending, without repeats, and not negative.")

    @classmethod
    def from_store(cls, store: Any, *, entries_of: Iterable[int]) -> CompactVocabulary:
        """Return the vocabulary of all tokens of `store` and of the entries of the sequences `entries_of`.

        Targets of other sequences stay unbiased under it, because their own draws had no say in what is kept.
        """
        tokens = [torch.as_tensor(store[index].tokens).long() for index in range(len(store))]
        entries = [store[index].targets.ids.long() for index in entries_of]
        return cls(torch.unique(torch.cat(tokens + entries)))

    @property
    def other(self) -> int:
        """The column of all ids that are not kept."""
        return len(self.kept)

    @property
    def size(self) -> int:
        """C: columns, the one of all others included."""
        return len(self.kept) + 1

    def map_ids(self, ids: Tensor) -> Tensor:
        """Return the column of each id, int64 of the same shape."""
        ids = ids.long()
        places = torch.searchsorted(self.kept, ids.contiguous()).clamp(max=self.other - 1)
        return torch.where(self.kept[places] == ids, places, self.other)

    def map_labels(self, labels: Tensor) -> Tensor:
        """Return the column of each label, int64 of the same shape; -100 stays -100."""
        return torch.where(labels == IGNORED_LABEL, IGNORED_LABEL, self.map_ids(labels))

    def map_targets(self, targets: SparseTargets) -> SparseTargets:
        """Return the targets over C columns: weights of ids that fall together are added, ids ascend in a position.

        Head counts, probabilities and the teacher's entropy speak of single ids of the full vocabulary; they are
        left out.
        """
        keys = targets.rows * self.size + self.map_ids(targets.ids)
        merged, place = torch.unique(keys, return_inverse=True)
        weights = torch.zeros(len(merged), dtype=torch.float64).index_add_(0, place, targets.weights.double())
        counts = torch.bincount(merged // self.size, minlength=targets.num_positions)
        return replace(
            targets,
            offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            ids=(merged % self.size).int(),
            weights=weights.float(),
            head_counts=None,
            probabilities=None,
            teacher_entropy=None,
        )

    def map_rows(self, probabilities: Tensor) -> Tensor:
        """Return distributions [T, V] over C columns, [T, C] of the same dtype; sums of rows are preserved.

        Raises:
            InvalidInput: fewer than V columns for the largest kept id.
        """
        if int(self.kept[-1]) >= probabilities.shape[1]:
            raise InvalidInput(
                f"rows have {probabilities.shape[1]} columns and the vocabulary keeps id {int(self.kept[-1])}; "
                "the rows must be of the teacher that made the store."
            )
        columns = self.map_ids(torch.arange(probabilities.shape[1]))
        return probabilities.new_zeros((len(probabilities), self.size)).index_add_(1, columns, probabilities)
