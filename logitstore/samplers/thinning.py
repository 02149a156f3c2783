"""Thinning: from targets of n draws to targets of fewer, without the teacher and without bias."""

# T positions, K entries of the widest position, E entries, n draws

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from logitstore.errors import InvalidInput
from logitstore.samplers.column_blocks import ColumnBlocks
from logitstore.samplers.philox import Purpose, uniforms
from logitstore.samplers.random_sampling import RandomSampling, count_draws
from logitstore.samplers.threshold import Threshold, assemble_targets, draw_rows
from logitstore.targets import Sampler, SparseTargets

#: random numbers of a position that one generation may use: more than there are draws
_DRAWS_OF_A_GENERATION = 1 << 16
MAX_GENERATION = (1 << 16) - 1


def thinned_sampler(sampler: Sampler, draws: int) -> RandomSampling | Threshold:
    """Return the sampler that thinned targets count as.

    Raises:
        InvalidInput: targets of this sampler cannot be thinned, or not to so many draws.
    """
    if isinstance(sampler, RandomSampling) and sampler.proposal_power != 1.0:
        raise InvalidInput(
            f"random-sampling with proposal_power {sampler.proposal_power:g} keeps importance weights, not counts; "
            "only proposal_power 1 can be thinned. Build another store with fewer draws."
        )
    if not isinstance(sampler, RandomSampling | Threshold):
        raise InvalidInput(
            f"targets of {sampler.name} cannot be thinned, as they are no unbiased sample; threshold and "
            "random-sampling can be."
        )
    if not isinstance(draws, int) or not 1 <= draws < sampler.draws:
        raise InvalidInput(f"draws is {draws!r}; fewer than the {sampler.draws} there are, and at least 1, was wanted.")
    return replace(sampler, draws=draws)


def thin(
    targets: SparseTargets,
    draws: int,
    *,
    sampler: Sampler,
    seed: int = 0,
    index: int = 0,
    first_position: int = 0,
    generation: int = 0,
) -> SparseTargets:
    """Return targets as a sampler with fewer draws might have made them, still unbiased.

    Counts of random sampling lose draws without replacement (multivariate hypergeometric), so the result is
    distributed exactly as a sample of `draws`. Threshold targets are threshold-sampled once more; the head's grid
    stays, and a position whose threshold is at or above 1/draws already is returned as it is.

    Args:
        targets: of T positions, as `sampler` made them.
        draws: sampling budget n' of the result, below that of `sampler`.
        sampler: what made the targets: `RandomSampling` with proposal_power 1, or `Threshold`.
        seed: key of the random numbers; they are not those of sampling, also at the same seed.
        index: index of the sequence in its store.
        first_position: position of the first target.
        generation: how often these targets were thinned before, so that each time has random numbers of its own.

    Returns:
        Targets of T positions on the same device; what belongs to the position (statistics) stays.

    Raises:
        InvalidInput: see `thinned_sampler`; targets that `sampler` cannot have made.
    """
    thinner = thinned_sampler(sampler, draws)
    if targets.sampler not in (None, sampler.name):
        raise InvalidInput(f"targets are of {targets.sampler}, the sampler given is {sampler.name}.")
    if not 0 <= generation <= MAX_GENERATION:
        raise InvalidInput(f"generation is {generation}; 0 to {MAX_GENERATION} was wanted.")
    positions = torch.arange(first_position, first_position + targets.num_positions, device=targets.ids.device)

    def chances(number: int, purpose: Purpose) -> Tensor:
        first_draw = generation * _DRAWS_OF_A_GENERATION
        return uniforms(positions, number, seed=seed, index=index, purpose=purpose, first_draw=first_draw)

    if isinstance(sampler, RandomSampling):
        return thin_counts(targets, sampler.draws, draws, chances(sampler.draws, Purpose.THINNING))
    assert isinstance(thinner, Threshold)
    sampling, rounding = (chances(1, purpose)[:, 0] for purpose in (Purpose.THINNING, Purpose.THINNING_ROUNDING))
    return thin_threshold(targets, thinner, sampling, rounding)


def thin_counts(targets: SparseTargets, draws: int, kept_draws: int, uniforms: Tensor) -> SparseTargets:
    """Keep `kept_draws` of each position's draws, chosen without replacement.

    Args:
        targets: weights are counts / draws; a masked position has none.
        draws: n.
        kept_draws: n'.
        uniforms: [T, n] float64 in [0, 1); the draws with the smallest stay.
    """
    counts = (targets.weights.double() * draws).round().long()
    drawn = counts.new_zeros(targets.num_positions).index_add_(0, targets.rows, counts)
    is_masked = targets.counts == 0
    if bool(((drawn != draws) & ~is_masked).any()):
        position = int(((drawn != draws) & ~is_masked).nonzero()[0, 0])
        raise InvalidInput(
            f"the counts of position {position} sum to {int(drawn[position])} of {draws} draws; {draws} were wanted. "
            "Was another number of draws used?"
        )
    ids = torch.repeat_interleave(targets.ids.long(), counts).view(-1, draws)
    chosen = uniforms[~is_masked].argsort(dim=1, stable=True)[:, :kept_draws]
    _, kept_ids, kept_counts = by_row = count_draws(ids.gather(1, chosen))
    per_position = targets.offsets.new_zeros(targets.num_positions)
    per_position[~is_masked] = by_row[0].diff()
    offsets = torch.cat([per_position.new_zeros(1), per_position.cumsum(0)])
    return replace(targets, offsets=offsets, ids=kept_ids.int(), weights=kept_counts.float() / kept_draws)


def thin_threshold(
    targets: SparseTargets, sampler: Threshold, sampling_uniforms: Tensor, rounding_uniforms: Tensor
) -> SparseTargets:
    """Threshold-sample stored weights once more.

    Args:
        targets: threshold targets on the grid of `sampler`.
        sampler: the threshold sampler with the fewer draws.
        sampling_uniforms: [T] float64 in [0, 1).
        rounding_uniforms: [T] float64 in [0, 1).
    """
    if targets.head_counts is None:
        raise InvalidInput("threshold targets have no head_counts; thinning needs them.")
    ids, weights = _in_id_order(targets)
    columns, head, tail_columns, is_tail = draw_rows(ColumnBlocks(weights.clone()), sampler.draws, sampling_uniforms)
    # columns that do not count may lie anywhere
    columns, tail_columns = (found.clamp(max=weights.shape[1] - 1) for found in (columns, tail_columns))
    # as stored, not as divided by their sum, which float32 puts beside 1: what is on the grid stays on it
    head = torch.where(head > 0, weights.gather(1, columns).double(), 0.0)
    drawn = ids.gather(1, columns), head, ids.gather(1, tail_columns), is_tail
    thinned = assemble_targets(*drawn, sampler.head_grid, rounding_uniforms)
    return _merge(targets, thinned, is_tail.any(dim=1))


def _in_id_order(targets: SparseTargets) -> tuple[Tensor, Tensor]:
    """Return ids [T, K] int64 and weights [T, K] float32, ids ascending; padding comes last, with weight 0."""
    padded = targets.to_padded(max(1, int(targets.counts.max())) if targets.num_positions else 1)
    ids = torch.where(padded.ids >= 0, padded.ids.long(), 1 << 40)
    order = ids.sort(dim=1)
    return order.values, padded.weights.gather(1, order.indices)


def _merge(before: SparseTargets, after: SparseTargets, changed: Tensor) -> SparseTargets:
    """Return the positions of `after` where `changed` [T], else those of `before`."""
    assert before.head_counts is not None
    assert after.head_counts is not None
    counts = torch.where(changed, after.counts, before.counts)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    ids, weights = before.ids.new_empty(int(offsets[-1])), before.weights.new_empty(int(offsets[-1]))
    from_after = torch.repeat_interleave(changed, counts)
    for source, here, is_from in ((after, changed, from_after), (before, ~changed, ~from_after)):
        taken = torch.repeat_interleave(here, source.counts)
        ids[is_from], weights[is_from] = source.ids[taken], source.weights[taken]
    head_counts = torch.where(changed, after.head_counts, before.head_counts)
    return replace(before, offsets=offsets, ids=ids, weights=weights, head_counts=head_counts)
