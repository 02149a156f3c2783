"""The samplers' kernels against torch.topk, torch.multinomial and the copy bandwidth; the public samplers."""

# T positions, V vocabulary

from __future__ import annotations

import torch
from torch import Tensor

from bench.gpu_parts.measure import Rows, copy_gb_per_s, median_ms, random_logits, row
from bench.gpu_parts.sizes import Sizes
from logitstore.samplers import RandomSampling, Threshold, TopK
from logitstore.triton_kernels.logit_blocks import LogitBlocks, largest_ids


def draw(logits: Tensor, chances: Tensor) -> Tensor:
    """Return tokens drawn with replacement, [T, n] int64, by the kernels."""
    blocks = LogitBlocks(logits)
    ends = blocks.sums().cumsum(1)
    return blocks.invert(ends, chances * ends[:, -1:])


def measure_build_side(sizes: Sizes) -> Rows:
    """One pass over the logits, the k largest, draws with replacement, and whole samplers."""
    copy = copy_gb_per_s(sizes.device, sizes.rounds)
    for vocab_size in (*sizes.build_vocabularies, sizes.odd_vocabulary):
        logits = random_logits(sizes.build_positions, vocab_size, sizes.device)
        chances = torch.rand(len(logits), 50, dtype=torch.float64, device=sizes.device)
        k = min(50, vocab_size)
        name = f"T={len(logits)} V={vocab_size}"

        def timed(function, *arguments):
            return median_ms(lambda: function(*arguments), sizes.device, sizes.rounds)

        one_pass = timed(LogitBlocks, logits)
        yield row(f"{name} one pass", one_pass, of_copy=logits.nbytes / one_pass / 1e6 / copy)
        ours, theirs = timed(largest_ids, logits, k), timed(torch.topk, logits, k)
        yield row(f"{name} {k} largest", ours, torch_topk_ms=theirs, over_torch=ours / theirs)
        ours = timed(draw, logits, chances)
        theirs = timed(lambda z: torch.multinomial(torch.softmax(z.float(), -1), 50, replacement=True), logits)
        yield row(f"{name} 50 draws", ours, torch_multinomial_ms=theirs, over_torch=ours / theirs)
        for sampler in (Threshold(20), RandomSampling(50), TopK(k)):
            yield row(f"{name} sampler {sampler.name}", timed(sampler, logits))
