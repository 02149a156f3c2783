"""The teacher's statistics of each position, exact from its full distribution."""

# T positions, V vocabulary, R rows of a block

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from logitstore.errors import InvalidInput
from logitstore.samplers.column_blocks import ColumnBlocks
from logitstore.samplers.distribution import bad_logits, check_logits
from logitstore.targets import STATISTIC_FIELDS

#: logits held at once: two blocks of them stay in a core's own cache, which takes 30 % less time than longer ones
_BLOCK_LOGITS_CPU = 1 << 19
_BLOCK_LOGITS_GPU = 1 << 26
#: exp of less is no normal float32 number; what is cut off weighs below 1e-32, for any vocabulary
_LEAST_LOG_RATIO = -87.0
_NO_LABEL = -100


def teacher_statistics(
    logits: Tensor, labels: Tensor | None, names: Iterable[str], *, first_position: int = 0
) -> dict[str, Tensor]:
    """Return statistics of the distribution of each row, by name.

    "entropy": in nats; "label_probability": probability of the label, NaN where there is none; "top1_probability":
    the largest probability. Accurate to 1e-6. A label that is the most probable token has a probability equal to
    the largest, bit for bit. A row's values do not depend on the rows beside it.

    Args:
        logits: [T, V] floating point, divided by the teacher temperature already; -inf is a probability of zero.
        labels: token ids, [T] int64, -100 where there is none; needed for "label_probability" only.
        names: statistics that are wanted, at most those three.
        first_position: position of row 0, for messages.

    Returns:
        For each name [T] float32 on the logits' device, in the order of `STATISTIC_FIELDS`.

    Raises:
        InvalidInput: an unknown name; labels of another shape or outside of the vocabulary; kind "bad-logits", where a
            row has NaN or +inf, or is -inf throughout.
    """
    check_logits(logits)
    wanted = check_statistics(names)
    if not wanted:
        return {}
    if "label_probability" in wanted:
        _check_labels(labels, logits)
    else:
        labels = None
    height = max(1, (_BLOCK_LOGITS_CPU if logits.device.type == "cpu" else _BLOCK_LOGITS_GPU) // logits.shape[1])
    # fresh memory for every block would cost more in page faults than the exponentials do
    scratch = torch.empty((2, min(height, len(logits)), logits.shape[1]), dtype=torch.float32, device=logits.device)
    found: dict[str, list[Tensor]] = {name: [] for name in wanted}
    for start in range(0, len(logits), height):
        block = logits[start : start + height].detach().float()
        block_labels = None if labels is None else labels[start : start + height]
        rows = _block_statistics(block, block_labels, first_position + start, *scratch[:, : len(block)])
        for name, parts in found.items():
            parts.append(rows[name])
    return {name: torch.cat(parts) if parts else logits.new_empty(0).float() for name, parts in found.items()}


def check_statistics(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of some statistics, each once and in the order they are stored in.

    Raises:
        InvalidInput: there is no such statistic, or `names` is one string.
    """
    if isinstance(names, str):
        raise InvalidInput(f"statistics are {names!r}; a list of names was wanted, such as [{names!r}].")
    asked = set(names)
    for name in asked - STATISTIC_FIELDS.keys():
        raise InvalidInput(f"there is no statistic {name!r}; there are {', '.join(STATISTIC_FIELDS)}.")
    return tuple(name for name in STATISTIC_FIELDS if name in asked)


def _block_statistics(
    logits: Tensor, labels: Tensor | None, position: int, ratios: Tensor, masses: Tensor
) -> dict[str, Tensor]:
    """Return the statistics of a block, each [R] float32.

    Args:
        logits: [R, V] float32.
        labels: [R] int64, or None for no label probability.
        position: of the first row.
        ratios: scratch, [R, V] float32.
        masses: scratch, [R, V] float32.
    """
    peak = logits.amax(dim=1, keepdim=True)
    # a row with NaN or +inf, or with -inf throughout, is NaN from here on
    torch.sub(logits, peak, out=ratios).clamp_(min=_LEAST_LOG_RATIO)
    torch.exp(ratios, out=masses)
    total = ColumnBlocks(masses).sums().sum(dim=1)
    if bool(total.isnan().any()):
        row = int(total.isnan().nonzero()[0, 0])
        raise bad_logits(logits[row], position + row)
    # sum p log p = sum p (z - peak) - log(total): no cancellation, as both terms have one sign
    mean_ratio = ColumnBlocks(masses.mul_(ratios)).sums().sum(dim=1) / total
    statistics = {"entropy": total.log() - mean_ratio, "top1_probability": 1 / total}
    if labels is not None:
        picked = logits.gather(1, labels.clamp(min=0)[:, None]).double() - peak.double()
        probability = picked.exp().squeeze(1) / total
        statistics["label_probability"] = torch.where(labels == _NO_LABEL, math.nan, probability)
    return {name: values.float() for name, values in statistics.items()}


def _check_labels(labels: Tensor | None, logits: Tensor) -> None:
    if labels is None:
        raise InvalidInput("label_probability is wanted and there are no labels; token ids [T] int64 were wanted.")
    if labels.dtype != torch.int64 or labels.shape != logits.shape[:1]:
        raise InvalidInput(
            f"labels are {labels.dtype} with shape {tuple(labels.shape)}; int64 with shape ({len(logits)},), one for "
            "each row of the logits, was wanted."
        )
    bad = (labels != _NO_LABEL) & ((labels < 0) | (labels >= logits.shape[1]))
    if bool(bad.any()):
        label = int(labels[bad][0])
        raise InvalidInput(
            f"a label is {label}; 0 to {logits.shape[1] - 1}, the columns of the logits, or -100 was wanted.",
            kind="id-out-of-range",
        )
