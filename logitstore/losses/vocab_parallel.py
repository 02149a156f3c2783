"""The loss where every rank of a process group holds some columns of the logits."""

# T positions, V vocabulary of all ranks, L columns of this rank, E entries, W ranks

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from logitstore.errors import InvalidInput
from logitstore.losses.checks import check_rows, check_values
from logitstore.losses.entries import Entries
from logitstore.losses.front import reduce_losses
from logitstore.losses.options import LossOptions, MissingMass, Reduction, Value, debug_is_on
from logitstore.losses.position_losses import position_losses
from logitstore.losses.positions import Positions, make_positions
from logitstore.losses.select_lse import path_for, refuse_second_order
from logitstore.losses.select_lse_reference import IGNORED_LABEL, SelectLse, statistics_dtype
from logitstore.targets import PAD_ID, PaddedTargets, SparseTargets

Group = Any  # torch.distributed.ProcessGroup, which builds of torch without distributed lack


class Columns(NamedTuple):
    """Which columns of the vocabulary a rank holds: `first` to `first + width` of `vocab_size`."""

    first: int
    width: int
    vocab_size: int


def vocab_parallel_sparse_kd_loss(
    local_logits: Tensor,
    targets: SparseTargets | PaddedTargets,
    labels: Tensor | None = None,
    alpha: float = 1.0,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    *,
    first_column: int,
    group: Group = None,
    vocab_size: int | None = None,
    value: Value = "soft_cross_entropy",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    missing_mass: MissingMass = "ignore",
    position_weights: Tensor | None = None,
    debug: bool | None = None,
) -> Tensor:
    """Return `sparse_kd_loss` of logits whose columns are spread over the ranks of a process group.

    Every rank of the group calls it with the same targets, labels and options and its own columns, and gets the whole
    loss; its backward gives the gradient of the rank's own columns and talks to nobody. The gradient at whatever the
    ranks share (the hidden states) has to be summed over them by the layer that made the logits, as in any
    column-parallel layer. Two exchanges of [T] and [E] values, combined in the order of the ranks: the same bits in
    every run. First derivatives only.

    Args:
        local_logits: [T, L] or [B, S, L]: columns `first_column` to `first_column + L`; ranks may hold different
            numbers of them, every column of the vocabulary is on one rank. Of a DTensor pass `logits.to_local()`.
        targets: over the whole vocabulary, as in `sparse_kd_loss`.
        labels: over the whole vocabulary, as there.
        alpha: as there.
        temperature: as there.
        reduction: as there.
        first_column: of this rank, counted over the whole vocabulary.
        group: process group; None for the default one.
        vocab_size: columns of all ranks together. None asks the ranks in every call and checks that they fit
            together, for which the host waits: give it in a training loop.
        value: as in `sparse_kd_loss`.
        label_smoothing: as there.
        z_loss: as there.
        softcap: as there.
        missing_mass: as there.
        position_weights: as there.
        debug: as there.

    Returns:
        As `sparse_kd_loss`, the same on every rank.

    Raises:
        InvalidInput: as in `sparse_kd_loss`; no process group; columns of the ranks that leave gaps or overlap.
    """
    options = LossOptions(
        alpha, temperature, reduction, value, label_smoothing, z_loss, softcap, missing_mass
    )  # fmt: skip
    options.check_labels(has_labels=labels is not None)
    check_rows("local_logits", local_logits, targets, labels, position_weights)
    columns = _columns(local_logits, first_column, vocab_size, group)
    check_values(targets, labels, position_weights, columns.vocab_size, debug=debug_is_on(debug))
    positions = make_positions(targets, labels, position_weights, options, statistics_dtype(local_logits))
    found = SelectLse(
        *_SelectAcrossRanks.apply(local_logits.flatten(0, -2), positions, options, columns, group)  # type: ignore[no-untyped-call]
    )
    return reduce_losses(position_losses(found, positions, options), positions, options, local_logits)


class _Local(NamedTuple):
    """Entries and labels of a rank: ids and labels count from its first column, and are void on other ranks."""

    offsets: Tensor
    ids: Tensor
    labels: Tensor | None
    #: entries that are this rank's, [E] bool; `ids` has more, see `_local`
    owned: Tensor


class _SelectAcrossRanks(torch.autograd.Function):
    """`SelectLse` over all ranks' columns, from this rank's logits [T, L]."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, positions: Positions, options: LossOptions, columns: Columns, group: Group
    ) -> tuple[Tensor, ...]:
        local = _local(positions, columns)
        found = SelectLse(
            *path_for(logits).forward(
                logits, local.offsets, local.ids, local.labels, options.temperature, options.softcap_or_0,
                options.needs_mean,
            )
        )  # fmt: skip
        has_target = positions.entries.has_target
        by_entry = torch.where(local.owned, found.selected, 0.0)
        sums = torch.cat([by_entry, found.label_logits, found.mean * (columns.width / columns.vocab_size)])
        dist.all_reduce(sums, group=group)
        lengths = [len(by_entry), len(found.label_logits), len(found.mean)]
        selected, label_logits, mean = torch.split(sums, lengths)
        whole = SelectLse(
            _log_sum_exp_of_ranks(found.lse, has_target, group),
            _log_sum_exp_of_ranks(found.lse_one, has_target, group) if len(found.lse_one) else found.lse_one,
            mean.clone(),
            selected.clone(),
            label_logits.clone(),
        )
        ctx.save_for_backward(logits, *whole, local.offsets, local.ids, local.labels, local.owned)
        ctx.options, ctx.share = options, columns.width / columns.vocab_size
        return tuple(whole)

    @staticmethod
    def backward(
        ctx: Any, d_lse: Tensor, d_lse_one: Tensor, d_mean: Tensor, d_selected: Tensor, d_label: Tensor
    ) -> tuple[Tensor | None, ...]:
        refuse_second_order()
        logits, lse, lse_one, _, selected, label_logits, offsets, ids, labels, owned = ctx.saved_tensors
        # with the log-sum-exp of all ranks the kernel's softmax is this rank's part of the whole one
        grad = path_for(logits).backward(
            logits, offsets, ids, labels, ctx.options.temperature, ctx.options.softcap_or_0,
            lse, lse_one, selected, label_logits,
            d_lse, d_lse_one, d_mean * ctx.share, torch.where(owned, d_selected, 0.0), d_label,
        )  # fmt: skip
        return grad, None, None, None, None


def _columns(local_logits: Tensor, first_column: int, vocab_size: int | None, group: Group) -> Columns:
    """Return which columns this rank holds; raise InvalidInput where they do not fit a vocabulary."""
    numbers: dict[str, Any] = {"first_column": first_column}
    if vocab_size is not None:
        numbers["vocab_size"] = vocab_size
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise InvalidInput(f"{name} is {number!r}; a whole number of at least 0 was wanted.")
    if not (dist.is_available() and dist.is_initialized()):
        raise InvalidInput(
            "there is no process group; call torch.distributed.init_process_group first, or use sparse_kd_loss where "
            "one process holds all columns."
        )
    count = local_logits.shape[-1]
    if vocab_size is None:
        return Columns(first_column, count, _ask_the_ranks(first_column, count, group))
    if first_column + count > vocab_size:
        raise InvalidInput(
            f"this rank holds columns {first_column} to {first_column + count - 1} of a vocabulary of {vocab_size}; "
            "first_column, the width of local_logits or vocab_size is wrong."
        )
    return Columns(first_column, count, vocab_size)


def _ask_the_ranks(first_column: int, count: int, group: Group) -> int:
    """Return the number of columns of all ranks; raise InvalidInput where they leave gaps or overlap."""
    held: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(held, (first_column, count), group=group)
    end = 0
    for first, number in sorted(held):
        if first != end:
            raise InvalidInput(
                f"the ranks hold the columns {held} (first_column, number of columns), which leave a gap or overlap at "
                f"column {min(first, end)}; each column of the vocabulary was wanted on one rank."
            )
        end = first + number
    return end


def _local(positions: Positions, columns: Columns) -> _Local:
    entries = positions.entries
    local = entries.ids - columns.first
    owned = (entries.ids >= 0) & (local >= 0) & (local < columns.width)
    ids = torch.where(owned, local, PAD_ID).to(torch.int32)
    labels = positions.labels
    if labels is not None:
        shifted = labels - columns.first
        is_local = (labels != IGNORED_LABEL) & (shifted >= 0) & (shifted < columns.width)
        labels = torch.where(is_local, shifted, IGNORED_LABEL)
    return _Local(entries.offsets, _with_an_entry_each(ids, entries), labels, owned)


def _with_an_entry_each(ids: Tensor, entries: Entries) -> Tensor:
    """Return ids in which each position that has a target has an entry that is not padding.

    The primitive skips positions without one, and their log-sum-exp is needed here. A position with no entry on this
    rank gets column 0 in its first place; nothing is selected by it, and no gradient goes through it.
    """
    rows = entries.rows
    count = entries.sums((ids >= 0).float())
    is_first = torch.arange(len(ids), device=ids.device) == entries.offsets[rows]
    return torch.where(is_first & (count[rows] == 0) & entries.has_target[rows], 0, ids)


def _log_sum_exp_of_ranks(lse: Tensor, has_target: Tensor, group: Group) -> Tensor:
    parts = [torch.empty_like(lse) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, lse.contiguous(), group=group)
    return torch.where(has_target, torch.logsumexp(torch.stack(parts), 0), 0.0)
