"""Means of the teacher's statistics over a store, where they are stored."""

# N positions

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore import codec
from logitstore.store.reader import Store

#: positions that are looked at: a second or two, and errors of a mean in the third decimal
MAX_POSITIONS = 1 << 22
_BINS = 15
#: the least positive float32: what rounded to 0 had a loss of at least 103 nats, and an infinite one is no JSON
_LEAST_PROBABILITY = 2.0**-149


def teacher_means(store: Store, *, max_positions: int = MAX_POSITIONS) -> dict[str, Any]:
    """Return means over the positions with a target, those that the stored statistics allow.

    In a larger store, evenly spread sequences of about `max_positions` positions are read.

    Returns:
        "positions": how many were read; "entropy": nats; "loss": -log of the label's probability, in nats;
        "top1_probability"; "top1_accuracy": how often the label is the most probable token; "calibration_error": the
        expected calibration error of the most probable token, mean |accuracy - probability| over 15 equal bins.

    Raises:
        StoreError: a sequence that is read is damaged.
    """
    found = _read(store, max_positions)
    entropy, label, top1 = (found[name].astype(np.float64) for name in codec.STATISTICS)
    means: dict[str, Any] = {"positions": len(entropy)}
    labelled, both = np.isfinite(label), np.isfinite(label) & np.isfinite(top1)
    if np.isfinite(entropy).any():
        means["entropy"] = float(entropy[np.isfinite(entropy)].mean())
    if labelled.any():
        means["loss"] = float(-np.log(np.maximum(label[labelled], _LEAST_PROBABILITY)).mean())
    if np.isfinite(top1).any():
        means["top1_probability"] = float(top1[np.isfinite(top1)].mean())
    if both.any():
        # no id is stored, but a label that is the most probable token has its probability to the last bit
        is_hit = label[both] >= top1[both]
        means["top1_accuracy"] = float(is_hit.mean())
        means["calibration_error"] = _calibration_error(top1[both], is_hit)
    return means


def _read(store: Store, max_positions: int) -> dict[str, NDArray[np.float32]]:
    """Return the statistics of positions with a target, each [N]; NaN where one is not stored."""
    num_sequences, num_tokens = len(store), int(store.sequence_lengths.sum())
    num_read = min(num_sequences, max(1, num_sequences * max_positions // num_tokens))
    columns: dict[str, list[NDArray[np.float32]]] = {name: [] for name in codec.STATISTICS}
    for index in (np.arange(num_read) * num_sequences // num_read).tolist():
        arrays = store.read_arrays(index)
        has_target = arrays.counts > 0
        nothing = np.full(len(arrays.tokens), np.nan, dtype=np.float32)
        for name, parts in columns.items():
            parts.append(arrays.statistics.get(name, nothing)[has_target])
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _calibration_error(probabilities: NDArray[np.float64], is_hit: NDArray[np.bool_]) -> float:
    bins = np.minimum((probabilities * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bins, weights=is_hit - probabilities, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(bins))
