"""Between sparse targets in memory and the plain arrays that the codec stores."""

# S tokens of a sequence, V vocabulary, E entries

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from logitstore.codec import ID_LIMIT, SequenceArrays, WeightForm, entry_weights, probability_error
from logitstore.errors import InvalidInput, StoreError
from logitstore.targets import STATISTIC_FIELDS, SparseTargets, check_ids

#: counts are divided by the draws in float32, which moves a sum of 1 by 6e-8 at most; one draw of 65,535 is 1.5e-5
_COUNTS_TOLERANCE = 1e-6
#: the head is exact, the tail's share is rounded to float32
_GRID_TOLERANCE = 1e-6
#: statistics that were computed in half precision may miss 0 or 1 by so much
_STATISTIC_TOLERANCE = 1e-3
#: top-k probabilities that a teacher gave in half precision may sum to so much more than 1
_PROBABILITIES_TOLERANCE = 1e-3


#: bits of a stored probability, by default
PROBABILITY_BITS = 8
#: samplers whose weights are the teacher's probabilities
_BIASED_SAMPLERS = ("top-k", "top-p")


@dataclass(frozen=True)
class Weighting:
    """How a store writes weights: the codec's form, its scale, and the sampler that made them."""

    form: WeightForm
    scale: int
    sampler: str
    teacher_temperature: float

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Weighting:
        """Return the form for the sampler of a manifest; samplers unknown here are stored as float32."""
        sampler, teacher_temperature = manifest["sampler"], manifest["teacher_temperature"]
        name = str(sampler.get("name"))
        if name == "random-sampling" and float(sampler.get("proposal_power", 1.0)) == 1.0:
            return cls(WeightForm.COUNTS, int(sampler["draws"]), name, teacher_temperature)
        if name == "threshold":
            if not isinstance(sampler.get("grid"), int):
                raise InvalidInput(f"the sampler {dict(sampler)} names no grid; a threshold sampler's to_dict does.")
            return cls(WeightForm.HEAD_GRID, int(sampler["grid"]), name, teacher_temperature)
        if name in _BIASED_SAMPLERS:
            bits = int(manifest["probability_bits"])
            return cls(WeightForm.PROBABILITIES, (1 << bits) - 1, name, teacher_temperature)
        return cls(WeightForm.FLOAT32, 0, name, teacher_temperature)


def probability_fields(sampler: Mapping[str, Any], bits: int) -> dict[str, int]:
    """Return the manifest's fields that say how exactly probabilities are stored, where any are.

    Raises:
        InvalidInput: the bits are out of range.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 8 <= bits <= 16:
        raise InvalidInput(f"probability_bits is {bits!r}; 8 to 16 was wanted.")
    return {"probability_bits": bits} if sampler.get("name") in _BIASED_SAMPLERS else {}


def to_arrays(
    tokens: NDArray[np.int32], targets: SparseTargets, weighting: Weighting, vocab_size: int, where: str
) -> SequenceArrays:
    """Check one sequence and return what the codec stores of it.

    Raises:
        InvalidInput: lengths differ, tokens or ids do not fit the vocabulary, or weights are not what the sampler
            promises (counts that add up to the draws; probabilities).
    """
    if tokens.ndim != 1 or len(tokens) == 0:
        raise InvalidInput(f"{where} has tokens of shape {tokens.shape}; at least one token id, [S], was wanted.")
    if targets.num_positions != len(tokens):
        raise InvalidInput(
            f"{where} has {len(tokens)} tokens and targets of {targets.num_positions} positions; every token has one "
            "position, the teacher's distribution after it (without entries where masked)."
        )
    targets = targets.to("cpu")
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise InvalidInput(
            f"the tokens of {where} reach from {tokens.min()} to {tokens.max()}; 0 to {vocab_size - 1} was wanted.",
            kind="id-out-of-range",
        )
    check_ids(targets.ids, vocab_size, what=f"the targets of {where}")
    if targets.sampler is not None and targets.sampler != weighting.sampler:
        raise InvalidInput(f"{where} has targets of {targets.sampler}, the store is for {weighting.sampler}.")
    if targets.teacher_temperature != weighting.teacher_temperature:
        raise InvalidInput(
            f"{where} has targets at teacher temperature {targets.teacher_temperature}, the store is for "
            f"{weighting.teacher_temperature}."
        )
    _check_fields(targets, weighting, where)
    _check_statistics(targets, where)
    statistics = {name: getattr(targets, field) for name, field in STATISTIC_FIELDS.items()}
    return SequenceArrays(
        tokens=tokens,
        counts=targets.counts.numpy(),
        ids=targets.ids.numpy(),
        form=weighting.form,
        values=_values(targets, weighting, where),
        scale=weighting.scale,
        head_counts=None if targets.head_counts is None else targets.head_counts.long().numpy(),
        statistics={name: tensor.numpy() for name, tensor in statistics.items() if tensor is not None},
    )


def to_targets(arrays: SequenceArrays, weighting: Weighting) -> SparseTargets:
    """Return the sparse targets that the codec stored.

    Raises:
        StoreError: kind "alignment-mismatch", where the weights are not stored as the manifest says.
    """
    if (arrays.form, arrays.scale) != (weighting.form, weighting.scale):
        raise StoreError(
            f"a sequence stores its weights as {arrays.form.name} of {arrays.scale}; by the manifest it is "
            f"{weighting.form.name} of {weighting.scale}.",
            kind="alignment-mismatch",
        )
    counts = torch.from_numpy(arrays.counts)
    statistics = {STATISTIC_FIELDS[name]: torch.from_numpy(values) for name, values in arrays.statistics.items()}
    head_counts = None if arrays.head_counts is None else torch.from_numpy(arrays.head_counts).int()
    return SparseTargets(
        offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        ids=torch.from_numpy(arrays.ids),
        weights=torch.from_numpy(entry_weights(arrays)),
        head_counts=head_counts,
        **statistics,
        sampler=weighting.sampler,
        teacher_temperature=weighting.teacher_temperature,
    )


def _is_head(counts: Tensor, head_counts: Tensor) -> Tensor:
    """Return which entries are head entries, [E] bool: the first ones of each position."""
    kinds = torch.tensor([True, False]).repeat(len(counts))
    return torch.repeat_interleave(kinds, torch.stack([head_counts, counts - head_counts], dim=1).flatten())


def weight_sums(targets: SparseTargets) -> Tensor:
    """Return the sum of each position's weights, [T] float64."""
    return _sums(targets, targets.weights.double())


def _sums(targets: SparseTargets, values: Tensor) -> Tensor:
    """Return the sum of each position's values, given for each entry, [T] float64."""
    return torch.zeros(targets.num_positions, dtype=torch.float64).index_add_(0, targets.rows, values)


def check_sums(targets: SparseTargets, weighting: Weighting, where: str, *, stored: bool = False) -> None:
    """Raise InvalidInput where the weights of a position do not sum to what the sampler promises.

    Args:
        targets: what is checked.
        weighting: what the store promises.
        where: names the sequence in an error.
        stored: the weights were stored, and so rounded, already.
    """
    sums = weight_sums(targets)
    if weighting.form == WeightForm.COUNTS:
        bad, wanted = (targets.counts > 0) & ((sums - 1).abs() > _COUNTS_TOLERANCE), "1"
    elif weighting.form == WeightForm.HEAD_GRID:
        bad, wanted = (targets.counts > 0) & ((sums - 1).abs() > _GRID_TOLERANCE), "1"
    elif weighting.form == WeightForm.PROBABILITIES:
        rounding = (
            _sums(targets, torch.from_numpy(probability_error(targets.weights, weighting.scale))) if stored else 0
        )
        bad, wanted = sums > 1 + _PROBABILITIES_TOLERANCE + rounding, "at most 1"
    else:
        return
    if bad.any():
        position = int(bad.nonzero()[0, 0])
        raise InvalidInput(
            f"the weights at position {position} of {where} sum to {float(sums[position]):.6g}; {wanted} was wanted "
            f"of {weighting.sampler}."
        )


def _values(targets: SparseTargets, weighting: Weighting, where: str) -> NDArray[Any]:
    weights = targets.weights
    if not bool(torch.isfinite(weights).all()):
        raise InvalidInput(f"{where} has weights that are NaN or infinite; finite weights were wanted.")
    check_sums(targets, weighting, where)
    if weighting.form == WeightForm.HEAD_GRID:
        return _head_numerators(targets, weighting.scale, where)
    if weighting.form != WeightForm.COUNTS:
        return weights.numpy()
    return _multiples(weights, targets.rows, weighting.scale, f"count out of {weighting.scale} draws", where)


def _multiples(weights: Tensor, rows: Tensor, scale: int, what: str, where: str) -> NDArray[np.uint32]:
    """Return weights as numerators over `scale`; rows [E] name the position in an error."""
    numerators = (weights * scale).round()
    off = (numerators < 1) | ((numerators / scale) != weights)
    if off.any():
        entry = int(off.nonzero()[0, 0])
        raise InvalidInput(
            f"a weight at position {int(rows[entry])} of {where} is {float(weights[entry])!r}, which is no {what}. Was "
            "the sampler another one, or had it other parameters?"
        )
    return numerators.numpy().astype(np.uint32)


def _head_numerators(targets: SparseTargets, grid: int, where: str) -> NDArray[np.uint32]:
    """Return the head's numerators, after a look at the tail: its entries share what the head leaves."""
    assert targets.head_counts is not None
    counts, head_counts, rows = targets.counts, targets.head_counts.long(), targets.rows
    if bool((head_counts < 0).any()) or bool((head_counts > counts).any()):
        position = int(((head_counts < 0) | (head_counts > counts)).nonzero()[0, 0])
        raise InvalidInput(
            f"position {position} of {where} has {int(head_counts[position])} head entries; 0 to "
            f"{int(counts[position])}, all its entries, was wanted."
        )
    is_head = _is_head(counts, head_counts)
    numerators = _multiples(targets.weights[is_head], rows[is_head], grid, f"multiple of 1/{grid}", where)
    share = (
        1
        - torch.zeros(len(counts), dtype=torch.float64).index_add_(0, rows[is_head], targets.weights[is_head].double())
    ) / (counts - head_counts).clamp(min=1)
    off = ~is_head & ((targets.weights <= 0) | (targets.weights != share.float()[rows]))
    if off.any():
        entry = int(off.nonzero()[0, 0])
        raise InvalidInput(
            f"a tail entry at position {int(rows[entry])} of {where} weighs {float(targets.weights[entry])!r}; "
            f"{float(share[rows[entry]])!r}, its share of what the head leaves, was wanted."
        )
    pairs = (rows * ID_LIMIT + targets.ids).sort().values
    twice = pairs[1:][pairs[1:] == pairs[:-1]]
    if len(twice):
        position, token_id = divmod(int(twice[0]), ID_LIMIT)
        raise InvalidInput(f"position {position} of {where} holds token id {token_id} twice, in its head and its tail.")
    return numerators


def _check_fields(targets: SparseTargets, weighting: Weighting, where: str) -> None:
    """Raise InvalidInput where targets hold what the store cannot keep, or lack what it needs."""
    if targets.probabilities is not None:
        raise InvalidInput(
            f"{where} has probabilities, which a store of {weighting.sampler} does not keep; leave them out."
        )
    if (targets.head_counts is not None) != (weighting.form == WeightForm.HEAD_GRID):
        found = "no head_counts" if targets.head_counts is None else "head_counts"
        raise InvalidInput(f"{where} has {found}; targets of threshold sampling have them, and no others.")


def _check_statistics(targets: SparseTargets, where: str) -> None:
    """Raise InvalidInput where a statistic of a position with a target cannot be one."""
    has_target = targets.counts > 0
    for name, values in targets.statistics.items():
        if values is None:
            continue
        largest, wanted = 1.0, "a number from 0 to 1"
        if name == "teacher_entropy":
            largest, wanted = math.inf, "a number of nats, 0 or more,"
        good = values.isfinite() & (values >= -_STATISTIC_TOLERANCE) & (values <= largest + _STATISTIC_TOLERANCE)
        if name == "label_probability":
            good, wanted = good | values.isnan(), f"{wanted}, or NaN where there is no label,"
        bad = ~good & has_target
        if bad.any():
            position = int(bad.nonzero()[0, 0])
            found = float(values[position])
            raise InvalidInput(f"{name} at position {position} of {where} is {found}; {wanted} was wanted.")
