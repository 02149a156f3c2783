"""Samples and batches: sequences with their labels, and rectangles of them."""

# B sequences of a batch, S tokens of the longest, T = B * S positions

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from logitstore.errors import InvalidInput
from logitstore.loader.labels import IGNORED_LABEL
from logitstore.targets import PaddedTargets, SparseTargets, concatenate_targets

Layout = Literal["csr", "padded"]

#: token at padding: id 0 fits any vocabulary, and `Batch.attention_mask` tells it from a real 0
PAD_TOKEN = 0


@dataclass(frozen=True, eq=False)
class Sample:
    """One sequence as it is trained on.

    Attributes:
        sequence_id: its place in the store.
        tokens: token ids, [S] int32.
        labels: [S] int64, already shifted: the label of position t is tokens[t + 1]; -100 is ignored.
        targets: sparse targets over the S positions.
    """

    sequence_id: int
    tokens: Tensor
    labels: Tensor
    targets: SparseTargets


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences of a batch, padded on the right to the longest.

    Attributes:
        tokens: [B, S] int64; 0 at padding.
        labels: [B, S] int64, already shifted (to Hugging Face models they go as `shift_labels`); -100 is ignored, and
            stands at padding.
        lengths: tokens of each sequence, [B] int64.
        targets: over B * S positions, sequence after sequence; positions of padding have no entries.
        sequence_ids: place of each sequence in the store, [B] int64.
    """

    tokens: Tensor
    labels: Tensor
    lengths: Tensor
    targets: SparseTargets | PaddedTargets
    sequence_ids: Tensor

    def __len__(self) -> int:
        """B: sequences in the batch."""
        return len(self.tokens)

    @property
    def attention_mask(self) -> Tensor:
        """1 at tokens, 0 at padding, [B, S] int64."""
        places = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return (places < self.lengths[:, None]).long()

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> Batch:
        """Return the same batch on `device`."""
        place = torch.device(device)
        targets = self.targets.to(place, non_blocking=non_blocking)
        return self._map(lambda tensor: tensor.to(place, non_blocking=non_blocking), targets)

    def pin_memory(self) -> Batch:
        """Return the same batch in page-locked memory, for asynchronous copies to a GPU."""
        return self._map(lambda tensor: tensor.pin_memory(), self.targets.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor], targets: SparseTargets | PaddedTargets) -> Batch:
        names = ("tokens", "labels", "lengths", "sequence_ids")
        return replace(self, targets=targets, **{name: function(getattr(self, name)) for name in names})


def collate_samples(samples: Sequence[Sample], *, layout: Layout = "csr") -> Batch:
    """Return samples as one batch, padded on the right to the longest.

    Args:
        samples: B of them, from one store; at least one.
        layout: form of the targets: "csr" (SparseTargets) or "padded" (PaddedTargets, as wide as the position with
            the most entries).

    Raises:
        InvalidInput: no samples, or no such layout.
    """
    check_layout(layout)
    if not samples:
        raise InvalidInput("there are no samples to make a batch of; at least one is needed.")
    lengths = torch.tensor([len(sample.tokens) for sample in samples])
    longest = int(lengths.max())
    targets = concatenate_targets([_lengthen(sample.targets, longest) for sample in samples])
    return Batch(
        tokens=pad_sequence([s.tokens.long() for s in samples], batch_first=True, padding_value=PAD_TOKEN),
        labels=pad_sequence([s.labels for s in samples], batch_first=True, padding_value=IGNORED_LABEL),
        lengths=lengths,
        targets=targets if layout == "csr" else targets.to_padded(),
        sequence_ids=torch.tensor([sample.sequence_id for sample in samples]),
    )


def check_layout(layout: str) -> None:
    """Raise InvalidInput where there is no such layout of targets."""
    if layout not in get_args(Layout):
        raise InvalidInput(f"layout is {layout!r}; {' or '.join(map(repr, get_args(Layout)))} was wanted.")


def _lengthen(targets: SparseTargets, num_positions: int) -> SparseTargets:
    """Return the targets with positions without entries added at the end."""
    missing = num_positions - targets.num_positions
    if missing == 0:
        return targets
    offsets = torch.cat([targets.offsets, targets.offsets[-1:].expand(missing)])
    head_counts = None if targets.head_counts is None else pad(targets.head_counts, (0, missing))
    statistics: dict[str, Any] = {
        # there is no label at padding
        name: pad(tensor, (0, missing), value=math.nan if name == "label_probability" else 0.0)
        for name, tensor in targets.statistics.items()
        if tensor is not None
    }
    return replace(targets, offsets=offsets, head_counts=head_counts, **statistics)
