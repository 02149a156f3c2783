"""Row kernels against the copy bandwidth and against torch's cross-entropy; whether a second loop hits L2."""

# T positions, V vocabulary, K entries of a position

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bench.gpu_parts.measure import Rows, bar, copy_gb_per_s, median_ms, random_logits, random_targets, row
from bench.gpu_parts.one_pass import one_pass
from bench.gpu_parts.sizes import Sizes
from logitstore.triton_kernels.configurations import RowConfiguration
from logitstore.triton_kernels.select_lse import select_lse_backward, select_lse_forward


class RowTimes:
    """Times the two row kernels on fixed logits, for a number of entries and a configuration."""

    def __init__(self, sizes: Sizes, logits: Tensor) -> None:
        self.sizes, self.logits, self.out = sizes, logits, torch.empty_like(logits)

    def measure(self, count: int, configuration: RowConfiguration | None) -> tuple[float, float]:
        """Return milliseconds of forward and backward."""
        num_positions, vocab_size = self.logits.shape
        targets = random_targets(num_positions, vocab_size, count, self.sizes.device)
        arguments = (self.logits, targets.offsets, targets.ids, None, 1.0, 0.0)
        chosen = {"configuration": configuration}
        lse, lse_one, mean, selected, label_logits = select_lse_forward(*arguments, False, **chosen)
        gradients = (torch.ones_like(lse), lse_one, mean, -targets.weights, label_logits)
        saved = (lse, lse_one, selected, label_logits)
        forward = median_ms(
            lambda: select_lse_forward(*arguments, False, **chosen), self.sizes.device, self.sizes.rounds
        )
        backward = median_ms(
            lambda: select_lse_backward(*arguments, *saved, *gradients, self.out, **chosen),
            self.sizes.device,
            self.sizes.rounds,
        )
        return forward, backward


def measure_rows(sizes: Sizes) -> Rows:
    """Every configuration, vocabulary and number of entries; two reads and a write are what must move."""
    copy = copy_gb_per_s(sizes.device, sizes.rounds)
    yield row("copy bandwidth", gb_per_s=copy)
    for vocab_size in (*sizes.vocabularies, sizes.odd_vocabulary):
        times = RowTimes(sizes, random_logits(sizes.row_positions, vocab_size, sizes.device))
        traffic = 3 * times.logits.nbytes / 1e6
        best = 0.0
        for block, warps in sizes.configurations:
            found = {}
            for count in sizes.entries:
                forward, backward = times.measure(count, RowConfiguration(block, warps))
                found[count] = forward + backward
                share = traffic / found[count] / copy
                best = max(best, share)
                yield row(
                    f"V={vocab_size} K={count} {block}x{warps}",
                    found[count],
                    forward_ms=forward,
                    backward_ms=backward,
                    of_copy=share,
                    sparse_over_hard=found[count] / found[sizes.entries[0]],
                )
        default = sum(times.measure(sizes.entries[-1], None)), sum(times.measure(sizes.entries[0], None))
        yield row(
            f"V={vocab_size} K={sizes.entries[-1]} default configuration",
            default[0],
            of_copy=traffic / default[0] / copy,
            bandwidth=bar(best, 0.85, at_most=False),
            sparse_over_hard=bar(default[0] / default[1], 1.01),
        )
        yield row(f"V={vocab_size} F.cross_entropy, bfloat16", cross_entropy_ms(sizes, times.logits))


def cross_entropy_ms(sizes: Sizes, logits: Tensor) -> float:
    """Return milliseconds of torch's cross-entropy over the same logits, forward and backward."""
    logits = logits.detach().requires_grad_()
    labels = torch.randint(logits.shape[1], (len(logits),), device=logits.device)

    def step() -> None:
        logits.grad = None
        functional.cross_entropy(logits, labels).backward()

    return median_ms(step, sizes.device, sizes.rounds)


def measure_l2(sizes: Sizes) -> Rows:
    """One program that reads its row twice, in each configuration, forwards and backwards, against two kernels."""
    vocab_size = sizes.vocabularies[min(1, len(sizes.vocabularies) - 1)]
    logits = random_logits(sizes.row_positions, vocab_size, sizes.device)
    apart = sum(RowTimes(sizes, logits).measure(1, None))
    yield row(f"V={vocab_size} two kernels", apart)
    lse = torch.empty(len(logits), device=sizes.device)
    d_lse = torch.ones_like(lse)
    wanted = torch.logsumexp(logits[:2].double(), 1)
    for block, warps in sizes.configurations:
        for from_end in (False, True):
            configuration = RowConfiguration(block, warps)
            logits = random_logits(sizes.row_positions, vocab_size, sizes.device)
            one_pass(logits, d_lse, lse, configuration, from_end=from_end)
            torch.testing.assert_close(lse[:2].double(), wanted, rtol=1e-5, atol=1e-5)
            # the logits become softmaxes of softmaxes: the time does not depend on values
            run = lambda c=configuration, e=from_end, z=logits: one_pass(z, d_lse, lse, c, from_end=e)  # noqa: E731
            taken = median_ms(run, sizes.device, sizes.rounds)
            yield row(
                f"V={vocab_size} one kernel {block}x{warps}{' reversed' if from_end else ''}",
                taken,
                over_two_kernels=taken / apart,
            )
