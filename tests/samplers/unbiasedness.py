"""z statistics of sampled targets: over tokens, over a student's soft cross-entropy and over its gradient."""

import torch

DRAWS = 20_000
#: Tokens with fewer expected hits are pooled. A case has at most some 1,100 statistics, P(|z| > 5.5) is 4e-8 for a
#: normal one and below 1e-6 for a count of 100: with the fixed seed below a false alarm in all cases together had a
#: chance below .05 when the seed was chosen, and has none since.
POOLED_BELOW = 100
MAX_Z = 5.5
SEED = 5

DISTRIBUTIONS = {
    "coin": torch.tensor([0.3, 0.7]),
    "peaked": torch.cat([torch.tensor([0.97]), torch.full((300,), 0.0001)]),
    "flat": torch.full((257,), 1 / 257),
    "zipf": 1 / torch.arange(1, 1001).float(),
    "certain": torch.tensor([0.0, 1.0, 0.0]),
    "ties at the threshold": torch.tensor([1 / 12] * 9 + [1 / 48] * 12),
    "fewer tokens than draws": torch.tensor([0.5, 0.3, 0.0, 0.15, 0.05, 0.0]),
    "head below the grid": torch.tensor([0.9] + [0.02] * 5),
}


def logits_of(distribution, rows=DRAWS, dtype=torch.float32):
    """Return equal rows of logits [rows, V], and the distribution they stand for, [V] float64."""
    row = distribution.double().log().to(dtype)
    return row.expand(rows, -1), torch.softmax(row.double(), -1)


def weighted_sums(targets, values):
    """Return sum_i w_i * values[id_i] of each position, [T] float64."""
    sums = torch.zeros(targets.num_positions, dtype=torch.float64)
    return sums.index_add_(0, targets.rows, targets.weights.double() * values[targets.ids.long()])


def z_of_mean(samples, wanted):
    """Return the z statistic of the mean of [T] samples; 0 where nothing varies and the mean is right."""
    error = float(samples.mean() - wanted)
    spread = float(samples.std()) / len(samples) ** 0.5
    return 0.0 if abs(error) < 1e-7 else error / max(spread, 1e-12)


def token_z(targets, p, draws):
    """Return the z statistics of each token's mean weight, rare tokens pooled, [up to V]."""
    rows, ids, weights = targets.num_positions, targets.ids.long(), targets.weights.double()
    rare = p * draws * rows < POOLED_BELOW
    mean = torch.zeros_like(p).index_add_(0, ids, weights) / rows
    spread = (torch.zeros_like(p).index_add_(0, ids, weights**2) / rows - mean**2).clamp(min=0).sqrt() / rows**0.5
    error = mean - p
    z = torch.where(error.abs() < 1e-7, 0.0, error / spread.clamp(min=1e-12))[~rare]
    return torch.cat([z, torch.tensor([z_of_mean(weighted_sums(targets, rare.double()), p[rare].sum())])])


def student_z(targets, p, directions=20):
    """Return the z statistics of a student's soft cross-entropy and of its logit gradient along random directions."""
    generator = torch.Generator().manual_seed(0)
    log_q = torch.log_softmax(2 * torch.randn(len(p), generator=generator, dtype=torch.float64), -1)
    functions = [-log_q]
    for _ in range(directions):
        direction = torch.randn(len(p), generator=generator, dtype=torch.float64)
        # the gradient (sum_i w_i) q - w, along the direction
        functions.append(log_q.exp() @ direction - direction)
    return torch.tensor([z_of_mean(weighted_sums(targets, f), p @ f) for f in functions])


def largest_z(targets, p, draws):
    return float(torch.cat([token_z(targets, p, draws), student_z(targets, p)]).abs().max())
