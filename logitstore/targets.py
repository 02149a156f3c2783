"""Sparse targets: the noun that samplers, stores, loaders and losses share."""

# T positions, V vocabulary, E entries in all, K entries of the widest position

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from logitstore.errors import InvalidInput

PAD_ID = -1

#: the teacher's statistics of a position, and the field of `SparseTargets` that holds each
STATISTIC_FIELDS = {
    "entropy": "teacher_entropy",
    "label_probability": "label_probability",
    "top1_probability": "top1_probability",
}


class Sampler(Protocol):
    """What turns a teacher's logits into sparse targets; see `logitstore.samplers`."""

    @property
    def name(self) -> str: ...

    def to_dict(self) -> dict[str, Any]: ...

    def __call__(self, logits: Tensor, *, seed: int = 0, index: int = 0, first_position: int = 0) -> SparseTargets: ...


class _Tensors:
    """What targets have in common: tensors that move from device to device, and the teacher's statistics."""

    @property
    def statistics(self) -> dict[str, Any]:
        """The teacher's statistics by the name of their field, each [T] float32 or None."""
        return {name: getattr(self, name) for name in STATISTIC_FIELDS.values()}

    def _map(self, function: Any) -> Self:
        moved = {f.name: function(v) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}  # type: ignore[arg-type]
        return replace(self, **moved)  # type: ignore[type-var]

    def _check_one_device(self) -> None:
        devices = {f.name: v.device for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}  # type: ignore[arg-type]
        if len(set(devices.values())) > 1:
            places = ", ".join(f"{name} on {device}" for name, device in devices.items())
            raise InvalidInput(f"sparse targets are spread over devices ({places}); one device was wanted.")

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Return the same targets on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return the same targets in page-locked memory, for asynchronous copies to a GPU."""
        return self._map(lambda tensor: tensor.pin_memory())


@dataclass(frozen=True, eq=False)
class PaddedTargets(_Tensors):
    """Sparse targets as a rectangle, for kernels that want one width.

    Unpacks into its two main tensors: `ids, weights = targets.to_padded()`.

    Attributes:
        ids: token ids, [T, K] int32; -1 where a position has fewer than K entries.
        weights: [T, K] float32; 0 at padding.
        teacher_entropy: entropy of the full teacher distribution in nats, [T] float32, where it is known.
        label_probability: teacher probability of the token that really came next, [T] float32, where it is known; NaN
            at positions without a label.
        top1_probability: largest probability of the full teacher distribution, [T] float32, where it is known.
        sampler: name of the sampler that drew the entries, where it is known.
        teacher_temperature: temperature the teacher's logits were divided by before sampling.
    """

    ids: Tensor
    weights: Tensor
    teacher_entropy: Tensor | None = None
    label_probability: Tensor | None = None
    top1_probability: Tensor | None = None
    sampler: str | None = None
    teacher_temperature: float = 1.0

    def __post_init__(self) -> None:
        _check_tensor("ids", self.ids, torch.int32, rank=2)
        _check_tensor("weights", self.weights, torch.float32, rank=2)
        if self.ids.shape != self.weights.shape:
            raise InvalidInput(
                f"padded targets: ids have shape {tuple(self.ids.shape)} and weights {tuple(self.weights.shape)}; "
                "they must be equal."
            )
        for name, statistic in self.statistics.items():
            _check_optional(name, statistic, torch.float32, len(self.ids))
        self._check_one_device()

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.ids, self.weights))

    @property
    def num_positions(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class SparseTargets(_Tensors):
    """The sparse targets of T positions, in CSR form.

    Position t has the entries `offsets[t]:offsets[t + 1]` of `ids` and `weights`; a masked position has none.

    Attributes:
        offsets: [T + 1] int64, starts at 0, never falls, ends at E.
        ids: token ids, [E] int32, unique within a position.
        weights: [E] float32, what each token's probability is estimated to be.
        head_counts: [T] int32, how many entries, first in their position, are kept exactly (threshold sampling).
        probabilities: exact teacher probabilities of the entries, [E] float32, where the sampler knows them.
        teacher_entropy: entropy of the full teacher distribution in nats, [T] float32, where it is known.
        label_probability: teacher probability of the token that really came next, [T] float32, where it is known; NaN
            at positions without a label.
        top1_probability: largest probability of the full teacher distribution, [T] float32, where it is known.
        sampler: name of the sampler that drew the entries, where it is known.
        teacher_temperature: temperature the teacher's logits were divided by before sampling.

    Raises:
        InvalidInput: a tensor has another rank, dtype, length or device.
    """

    offsets: Tensor
    ids: Tensor
    weights: Tensor
    head_counts: Tensor | None = None
    probabilities: Tensor | None = None
    teacher_entropy: Tensor | None = None
    label_probability: Tensor | None = None
    top1_probability: Tensor | None = None
    sampler: str | None = None
    teacher_temperature: float = 1.0

    def __post_init__(self) -> None:
        _check_tensor("offsets", self.offsets, torch.int64, rank=1)
        _check_tensor("ids", self.ids, torch.int32, rank=1)
        if len(self.offsets) == 0:
            raise InvalidInput("offsets are empty; for T positions there must be T + 1 of them, so at least [0].")
        num_entries, num_positions = len(self.ids), len(self.offsets) - 1
        _check_tensor("weights", self.weights, torch.float32, rank=1, length=num_entries)
        _check_optional("head_counts", self.head_counts, torch.int32, num_positions)
        _check_optional("probabilities", self.probabilities, torch.float32, num_entries)
        for name, statistic in self.statistics.items():
            _check_optional(name, statistic, torch.float32, num_positions)
        self._check_one_device()

    @property
    def num_positions(self) -> int:
        """T: positions, masked ones included."""
        return len(self.offsets) - 1

    @property
    def num_entries(self) -> int:
        """E: entries of all positions."""
        return len(self.ids)

    @property
    def counts(self) -> Tensor:
        """Entries of each position, [T] int64."""
        return self.offsets.diff()

    @property
    def rows(self) -> Tensor:
        """Position of each entry, [E] int64."""
        positions = torch.arange(self.num_positions, device=self.ids.device)
        return torch.repeat_interleave(positions, self.counts, output_size=self.num_entries)

    def to_padded(self, width: int | None = None) -> PaddedTargets:
        """Return ids and weights as rectangles [T, K].

        Args:
            width: K; by default the entries of the widest position.
        Raises:
            InvalidInput: a position has more than `width` entries.
        """
        counts = self.counts
        widest = int(counts.max()) if self.num_positions else 0
        width = widest if width is None else width
        if width < widest:
            raise InvalidInput(f"a position has {widest} entries, more than the width {width} asked for.")
        rows = self.rows
        columns = torch.arange(self.num_entries, device=rows.device) - self.offsets[rows]
        ids = self.ids.new_full((self.num_positions, width), PAD_ID)
        weights = self.weights.new_zeros((self.num_positions, width))
        ids[rows, columns] = self.ids
        weights[rows, columns] = self.weights
        return PaddedTargets(
            ids, weights, **self.statistics, sampler=self.sampler, teacher_temperature=self.teacher_temperature
        )

    def to_dense(self, vocab_size: int) -> Tensor:
        """Return the weights as dense rows, [T, vocab_size] float32.

        Raises:
            InvalidInput: an id does not fit into `vocab_size` columns.
        """
        check_ids(self.ids, vocab_size)
        dense = self.weights.new_zeros((self.num_positions, vocab_size))
        return dense.index_put_((self.rows, self.ids.long()), self.weights, accumulate=True)

    def slice(self, start: int, stop: int) -> SparseTargets:
        """Return positions `start:stop`, with the bounds of a Python slice."""
        start, stop, _ = slice(start, stop).indices(self.num_positions)
        stop = max(start, stop)
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        by_position: dict[str, Any] = {
            name: _cut(tensor, start, stop)
            for name, tensor in {"head_counts": self.head_counts, **self.statistics}.items()
        }
        by_entry: dict[str, Any] = {
            name: _cut(getattr(self, name), first, last) for name in ("ids", "weights", "probabilities")
        }
        return replace(self, offsets=self.offsets[start : stop + 1] - first, **by_position, **by_entry)


def concatenate_targets(parts: Sequence[SparseTargets]) -> SparseTargets:
    """Return the positions of all `parts`, one after the other.

    Raises:
        InvalidInput: no parts, or parts of different samplers, temperatures or optional tensors.
    """
    if not parts:
        raise InvalidInput("no sparse targets to concatenate; at least one is needed.")
    first = parts[0]
    joined: dict[str, Any] = {}
    for field in ("ids", "weights", "head_counts", "probabilities", *STATISTIC_FIELDS.values()):
        values = [getattr(part, field) for part in parts]
        if any((value is None) != (values[0] is None) for value in values):
            raise InvalidInput(f"some of the sparse targets have {field} and some have none; they cannot be joined.")
        joined[field] = None if values[0] is None else torch.cat(values)
    for field in ("sampler", "teacher_temperature"):
        found = {getattr(part, field) for part in parts}
        if len(found) > 1:
            raise InvalidInput(f"sparse targets of different {field} cannot be joined: {sorted(map(str, found))}.")
    counts = torch.cat([part.counts for part in parts])
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return replace(first, offsets=offsets, **joined)


def check_ids(ids: Tensor, vocab_size: int, *, what: str = "targets") -> None:
    """Raise InvalidInput where an id is negative or needs more than `vocab_size` columns."""
    if ids.numel() == 0:
        return
    low, high = (int(bound) for bound in torch.aminmax(ids))
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise InvalidInput(
            f"{what} hold token id {wrong}, which does not fit a vocabulary of {vocab_size} "
            f"(ids 0 to {vocab_size - 1}). Was the store built with another tokenizer, or the model's vocabulary "
            "padded differently?",
            kind="id-out-of-range",
        )


def _cut(tensor: Tensor | None, start: int, stop: int) -> Tensor | None:
    return None if tensor is None else tensor[start:stop]


def _check_tensor(name: str, tensor: Tensor, dtype: torch.dtype, *, rank: int, length: int | None = None) -> None:
    if not isinstance(tensor, Tensor):
        raise InvalidInput(f"{name} is a {type(tensor).__name__}; a torch.Tensor was wanted.")
    if tensor.ndim != rank or tensor.dtype != dtype:
        raise InvalidInput(
            f"{name} is {tensor.dtype} with shape {tuple(tensor.shape)}; {dtype} with {rank} dimension(s) was wanted."
        )
    if length is not None and len(tensor) != length:
        raise InvalidInput(f"{name} has {len(tensor)} values; {length} were wanted.")


def _check_optional(name: str, tensor: Tensor | None, dtype: torch.dtype, length: int) -> None:
    if tensor is not None:
        _check_tensor(name, tensor, dtype, rank=1, length=length)
