"""How well stored targets agree with the distributions of a teacher that was run again.

Let q be what the sampler draws from (p itself, but for a proposal power), and f(i) = log q_i, cut off at a floor and
then less its mean under q. The deviation of a position is the sum of w_i (q_i / p_i) f(i) over its entries: weights are
unbiased, E[w] = p, so its mean is 0 whichever seed drew them. Its variance is Var_q(f) / n for n draws with replacement;
for threshold sampling it is estimated from a few more draws of the same distribution. If the entries were drawn from
another distribution p' the mean is H(p) - H(p') - KL(p' | p), in nats: the divergence has one sign, but a teacher that
is less sure of itself may make up for it. So there is a second statistic, the excess: sum_i (w_i - p_i)^2, less the same
of one more draw. Its distribution is symmetric about 0, whatever it is, so the sum S over positions and the sum Q of its
squares have |S| >= z sqrt(Q) with a chance of at most 2 exp(-z^2 / 2) (Hoeffding). Where the entries are another's, its
mean is about sum_i (p'_i - p_i)^2, which nothing makes up for.
"""

# T positions, R rows of a block, V vocabulary, E entries

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from logitstore.build.redraw import Redraw
from logitstore.codec import probability_error
from logitstore.samplers import RandomSampling, Threshold, TopP
from logitstore.samplers.distribution import probability_blocks
from logitstore.samplers.random_sampling import log_sum_exp
from logitstore.targets import SparseTargets

#: f is cut off where a token has this share of one draw: what a right store holds of lighter tokens hardly counts,
#: and the deviation of a position is bounded
_FLOOR_SHARE = 0.01
_ID_BITS = 21


@dataclass(frozen=True)
class Tolerance:
    """What may differ though the teacher is the same, as another device or batch sums in another order.

    Attributes:
        probability: relative error of a probability.
        statistic: error of the teacher's statistics, in nats or as a probability.
        deviation: mean deviation of a position, in nats, that is not worth an alarm.
        excess: mean excess of a position that is not.
        identical: least share of positions with the very entries of the store's seed; None where rounding decides.
    """

    probability: float
    statistic: float
    deviation: float
    excess: float
    identical: float | None


#: by dtype: float32 logits move by some 1e-5 with the batch; of half precision the last bit of a logit of 16 to 32 is
#: 2^-3 (bfloat16) or 2^-6 (float16), and probabilities move by as much
TOLERANCES = {
    "float32": Tolerance(1e-3, 1e-3, 1e-4, 1e-5, 0.98),
    "float16": Tolerance(0.03, 0.05, 1e-3, 1e-4, None),
    "bfloat16": Tolerance(0.2, 0.3, 1e-2, 1e-3, None),
}


@dataclass(frozen=True)
class Scores:
    """What was found at some positions, each tensor [T].

    Attributes:
        agrees: whether all that is certain holds: no entry of probability 0; of threshold targets the head; of top-k
            and top-p all ids and probabilities.
        deviation: see the module, in nats, float64; 0 for top-k and top-p.
        variance: of the deviation, float64.
        excess: see the module, float64; 0 for top-k and top-p.
        excess_square: of the excess, float64.
    """

    agrees: Tensor
    deviation: Tensor
    variance: Tensor
    excess: Tensor
    excess_square: Tensor


def deviation_bound(redraw: Redraw) -> float:
    """Return b of Bernstein's inequality: the most by which one independent draw moves a position's deviation."""
    sampler = redraw.sampler
    if isinstance(sampler, RandomSampling):
        return -_floor(sampler.draws) / sampler.draws
    return -_floor(sampler.draws) if isinstance(sampler, Threshold) else 0.0


def score_positions(
    redraw: Redraw,
    logits: Tensor,
    stored: SparseTargets,
    again: SparseTargets,
    replicas: list[SparseTargets],
    tolerance: Tolerance,
    scale: int,
) -> Scores:
    """Compare the stored targets of some positions of one sequence with the teacher's distributions.

    Args:
        redraw: how the targets were drawn.
        logits: [T, V] floating point, masked and divided by the teacher temperature.
        stored: of T positions; positions without entries come out as if they agreed.
        again: drawn once more from these logits.
        replicas: more such draws, independent of the stored ones, at least one where the sampler is an unbiased one.
        tolerance: what may differ.
        scale: largest code of a stored probability (top-k, top-p).

    Raises:
        InvalidInput: kind "bad-logits".
    """
    sampler = redraw.sampler
    agrees: list[Tensor] = []
    statistics: list[tuple[Tensor, ...]] = []
    is_sample = isinstance(sampler, RandomSampling | Threshold)
    power = sampler.proposal_power if isinstance(sampler, RandomSampling) else 1.0
    for start, block in probability_blocks(logits, power=power):
        part = slice(start, start + len(block))
        here, drawn = stored.slice(part.start, part.stop), again.slice(part.start, part.stop)
        if is_sample:
            agrees.append(_is_possible(block, here))
            more = [replica.slice(part.start, part.stop) for replica in replicas]
            found = _deviations(redraw, logits[part], block, here, more) + _excesses(logits[part], here, more[0])
            if isinstance(sampler, Threshold) and not redraw.thinnings:
                agrees[-1] &= _heads_agree(block, here, drawn, sampler.head_grid, tolerance.probability)
        else:
            agrees.append(_largest_agree(redraw, block, here, drawn, tolerance.probability, scale))
            found = (torch.zeros(len(block), dtype=torch.float64, device=block.device),) * 4
        has_target = here.counts > 0
        agrees[-1] |= ~has_target
        statistics.append(tuple(torch.where(has_target, values, 0.0) for values in found))
    return Scores(torch.cat(agrees).cpu(), *(torch.cat(parts).cpu() for parts in zip(*statistics, strict=True)))


def identical_positions(first: SparseTargets, second: SparseTargets, error: float) -> Tensor:
    """Return at which positions two targets have the same entries, [T] bool.

    Counts and multiples of the grid are the same or not; importance weights may differ by `error`, relative.
    """
    same = first.counts == second.counts
    ours, theirs = (torch.repeat_interleave(same, targets.counts) for targets in (first, second))
    weights = first.weights[ours]
    differs = (first.ids[ours] != second.ids[theirs]) | ((weights - second.weights[theirs]).abs() > error * weights)
    return same & (_count(first.rows[ours], differs, len(same)) == 0)


def overlaps(first: SparseTargets, second: SparseTargets) -> Tensor:
    """Return how much mass two targets of T positions have in common, sum_i min(w_i, w'_i), [T] float64."""
    rows = first.rows
    common = torch.minimum(first.weights.double(), _weights_of(second, rows, first.ids.long()))
    return torch.zeros(first.num_positions, dtype=torch.float64, device=rows.device).index_add_(0, rows, common)


def _floor(draws: int) -> float:
    return math.log(_FLOOR_SHARE / draws)


def _deviations(
    redraw: Redraw, logits: Tensor, block: Tensor, stored: SparseTargets, replicas: list[SparseTargets]
) -> tuple[Tensor, Tensor]:
    """Return the deviations of some rows and their variances, each [R] float64."""
    sampler = redraw.sampler
    assert isinstance(sampler, RandomSampling | Threshold)
    floor = _floor(sampler.draws)
    logs = block.log().clamp_(min=floor)
    mean = (block * logs).sum(dim=1, dtype=torch.float64) / block.sum(dim=1, dtype=torch.float64)

    def deviation(targets: SparseTargets) -> Tensor:
        rows, ids = targets.rows, targets.ids.long()
        values = targets.weights.double() * (logs[rows, ids] - mean[rows])
        if isinstance(sampler, RandomSampling) and sampler.proposal_power != 1.0:
            values = values / _importance(logits, sampler.proposal_power, rows, ids)
        return torch.zeros_like(mean).index_add_(0, rows, values)

    if isinstance(sampler, RandomSampling):
        squares = (block * logs.square()).sum(dim=1, dtype=torch.float64)
        return deviation(stored), (squares - mean.square()).clamp(min=0) / sampler.draws
    return deviation(stored), torch.stack([deviation(replica).square() for replica in replicas]).mean(dim=0)


def _excesses(logits: Tensor, stored: SparseTargets, replica: SparseTargets) -> tuple[Tensor, Tensor]:
    """Return the excesses of some rows and their squares, each [R] float64."""
    normal = log_sum_exp(logits, 1.0)

    def distance(targets: SparseTargets) -> Tensor:
        """Return sum_i (w_i - p_i)^2 less sum_i p_i^2, which is the same for both."""
        rows, ids, weights = targets.rows, targets.ids.long(), targets.weights.double()
        p = (logits[rows, ids].double() - normal[rows]).exp()
        return torch.zeros_like(normal).index_add_(0, rows, weights * (weights - 2 * p))

    excess = distance(stored) - distance(replica)
    return excess, excess.square()


def _importance(logits: Tensor, power: float, rows: Tensor, ids: Tensor) -> Tensor:
    """Return p/q of tokens, [E] float64; 1 where both are 0."""
    picked = logits[rows, ids].double()
    ratio = picked * (1 - power) - (log_sum_exp(logits, 1.0) - log_sum_exp(logits, power))[rows]
    return torch.where(picked.isneginf(), 1.0, ratio.clamp(-30, 30).exp())


def _is_possible(block: Tensor, stored: SparseTargets) -> Tensor:
    """Return which rows hold no entry that has no probability at all, [R] bool."""
    return _count(stored.rows, block[stored.rows, stored.ids.long()] <= 0, len(block)) == 0


def _heads_agree(block: Tensor, stored: SparseTargets, again: SparseTargets, grid: int, error: float) -> Tensor:
    """Return which rows of threshold targets have the heads they must, [R] bool.

    A head token weighs its probability, rounded to a multiple of 1/grid below or above, whichever seed rounds it.
    """
    agrees = torch.ones(len(block), dtype=torch.bool, device=block.device)
    for of in (stored, again):
        assert of.head_counts is not None
        place = torch.arange(of.num_entries, device=block.device) - of.offsets[of.rows]
        is_head = place < of.head_counts[of.rows]
        rows, ids = of.rows[is_head], of.ids[is_head].long()
        p = block[rows, ids].double()
        off = (_weights_of(stored, rows, ids) - p).abs() > 1.001 / grid + error * p
        agrees &= _count(rows, off, len(block)) == 0
    return agrees


def _largest_agree(
    redraw: Redraw, block: Tensor, stored: SparseTargets, again: SparseTargets, error: float, scale: int
) -> Tensor:
    """Return which rows of top-k or top-p targets hold the largest probabilities, as exactly as stored, [R] bool.

    Tokens whose probabilities differ by less than `error`, relative, may stand in for each other.
    """
    height = len(block)
    p = block[stored.rows, stored.ids.long()].double()
    wrong = (stored.weights.double() - p).abs() > torch.from_numpy(probability_error(p.cpu(), scale)).to(
        p.device
    ) + error * p
    least = torch.full((height,), math.inf, dtype=torch.float64, device=block.device)
    least = least.scatter_reduce(0, stored.rows, p, "amin")
    left_out = _weights_of(stored, again.rows, again.ids.long()) == 0
    larger = left_out & (block[again.rows, again.ids.long()].double() > (1 + error) * least[again.rows])
    agrees = (_count(stored.rows, wrong, height) == 0) & (_count(again.rows, larger, height) == 0)
    right_size = stored.counts == again.counts
    sampler = redraw.sampler
    if isinstance(sampler, TopP):
        mass = torch.zeros_like(least).index_add_(0, stored.rows, p)
        enough = mass >= sampler.p * (1 - error)
        right_size |= enough & (mass - least <= sampler.p * (1 + error))
    return agrees & right_size


def _weights_of(targets: SparseTargets, rows: Tensor, ids: Tensor) -> Tensor:
    """Return the weight that targets give to tokens, 0 where they have none, [len(rows)] float64."""
    if targets.num_entries == 0:
        return torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    keys = (targets.rows << _ID_BITS) | targets.ids.long()
    keys, order = keys.sort()
    wanted = (rows << _ID_BITS) | ids
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, targets.weights[order][place].double(), 0.0)


def _count(rows: Tensor, flags: Tensor, height: int) -> Tensor:
    """Return how many flags are set in each row, [height] int64."""
    return torch.zeros(height, dtype=torch.int64, device=rows.device).index_add_(0, rows, flags.long())
