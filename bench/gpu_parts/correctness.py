"""Checks before anything is timed: kernels against float64 by the yardstick, repeated runs bit by bit."""

# T positions, V vocabulary

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import logitstore
from bench.gpu_parts.measure import Row, Rows, random_logits, random_targets, row
from bench.gpu_parts.sizes import Sizes
from logitstore.losses.select_lse_reference import select_lse_backward_reference, select_lse_reference
from logitstore.samplers.column_blocks import ColumnBlocks
from logitstore.samplers.random_sampling import draw_ids
from logitstore.triton_kernels.logit_blocks import LogitBlocks
from logitstore.triton_kernels.select_lse import select_lse_backward, select_lse_forward

_OPTIONS = {"plain": (1.0, 0.0, False), "all": (2.0, 30.0, True)}


def run_rows(module: tuple, logits: Tensor, options: tuple[float, float, bool]) -> tuple[Tensor, Tensor]:
    """Return lse and gradient of fixed entries, labels and gradients, by the two functions of a path."""
    forward, backward = module
    temperature, softcap, with_mean = options
    targets = random_targets(*logits.shape, min(12, logits.shape[1]), str(logits.device))
    labels = torch.arange(len(logits), device=logits.device) % logits.shape[1]
    arguments = (logits, targets.offsets, targets.ids, labels, temperature, softcap)
    lse, lse_one, mean, selected, label_logits = forward(*arguments, with_mean)
    gradients = [torch.ones_like(part) for part in (lse, lse_one, mean)]
    gradients += [-targets.weights.to(lse.dtype), -torch.ones_like(label_logits)]
    return lse, backward(*arguments, lse, lse_one, selected, label_logits, *gradients)


def check_row_kernels(sizes: Sizes) -> Rows:
    """Yield the errors of the row kernels and of the same formula in plain torch, in the logits' dtype."""
    ours, plain = (select_lse_forward, select_lse_backward), (select_lse_reference, select_lse_backward_reference)
    positions = min(64, sizes.row_positions)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        # a width each for tiny, odd and aligned rows; the compiler's time, not the device's, sets how many
        others = (1, 2, *sizes.vocabularies[1:]) if dtype == torch.bfloat16 else ()
        for vocab_size in (251, sizes.odd_vocabulary, sizes.vocabularies[0], *others):
            logits = random_logits(positions, vocab_size, sizes.device, dtype)
            for name, options in _OPTIONS.items():
                exact = run_rows(plain, logits.double(), options)
                found, theirs = run_rows(ours, logits, options), run_rows(plain, logits, options)
                errors = [(a.double() - b).abs().max().item() for a, b in zip(found, exact, strict=True)]
                bounds = [2 * (a.double() - b).abs().max().item() + 1e-5 for a, b in zip(theirs, exact, strict=True)]
                if sizes.device == "cpu" and dtype == torch.bfloat16:
                    bounds[1] += 2.0**-7 * exact[1].abs().max().item()  # the interpreter truncates
                yield row(
                    f"{dtype} V={vocab_size} {name}".removeprefix("torch."),
                    lse_error=f"{errors[0]:.1e}",
                    gradient_error=f"{errors[1]:.1e}",
                    ok=all(error <= bound for error, bound in zip(errors, bounds, strict=True)),
                )


def check_blocks(sizes: Sizes) -> Rows:
    """Yield whether the samplers' kernels agree with the plain samplers."""
    for vocab_size in (251, sizes.odd_vocabulary, *sizes.vocabularies):
        logits = random_logits(min(64, sizes.build_positions), vocab_size, sizes.device)
        chances = torch.rand(len(logits), 50, dtype=torch.float64, device=sizes.device)
        blocks, plain = LogitBlocks(logits), ColumnBlocks(torch.softmax(logits.float(), -1))
        count = min(50, vocab_size)
        in_order = logits.float().sort(dim=1, descending=True, stable=True).indices[:, :count]
        ends = blocks.sums().cumsum(1)
        differ = (blocks.invert(ends, chances * ends[:, -1:]) != draw_ids(plain, chances)).float()
        yield row(
            f"blocks V={vocab_size}",
            largest_exact=(exact := torch.equal(blocks.largest(count)[1], in_order)),
            draws_that_differ=differ.mean().item(),
            ok=exact and differ.mean().item() < 1e-2,
        )


def check_linear(sizes: Sizes) -> Iterator[Row]:
    """Yield the errors of the fused loss and its gradients against float64."""
    generator = torch.Generator(sizes.device).manual_seed(0)
    hidden = torch.randn(40, 64, device=sizes.device, generator=generator).bfloat16().requires_grad_()
    weight = torch.randn(251, 64, device=sizes.device, generator=generator).bfloat16().requires_grad_()
    targets = random_targets(40, 251, 12, sizes.device)
    exact_hidden, exact_weight = (tensor.detach().double().requires_grad_() for tensor in (hidden, weight))
    loss = logitstore.linear_sparse_kd_loss(hidden, weight, targets, chunk_bytes=7 * 251 * 2)
    exact = logitstore.sparse_kd_loss(exact_hidden @ exact_weight.t(), targets)
    loss.backward()
    exact.backward()
    errors = [
        ((a.double() - b).abs().max() / b.abs().max()).item()
        for a, b in ((loss, exact), (hidden.grad, exact_hidden.grad), (weight.grad, exact_weight.grad))
    ]
    # bfloat16 logits of about 8 are off by up to 2^-6 each, and so are their exponentials
    yield row(
        "fused linear, relative errors", errors=" ".join(f"{error:.1e}" for error in errors), ok=max(errors) < 0.03
    )


def check_everything(sizes: Sizes) -> Rows:
    """Yield all checks."""
    yield from check_row_kernels(sizes)
    yield from check_blocks(sizes)
    yield from check_linear(sizes)


def check_repeats(sizes: Sizes) -> Rows:
    """Yield whether many runs of every kernel give the same bits."""
    logits = random_logits(sizes.row_positions, sizes.vocabularies[0], sizes.device)
    chances = torch.rand(len(logits), 20, dtype=torch.float64, device=sizes.device)

    def everything() -> list[Tensor]:
        blocks = LogitBlocks(logits)
        masses, ids = blocks.largest(20)
        blocks.leave_out(torch.full((len(ids),), 3, device=ids.device))
        ends = blocks.sums().cumsum(1)
        drawn = blocks.invert(ends, chances * ends[:, -1:])
        return [*run_rows((select_lse_forward, select_lse_backward), logits, _OPTIONS["all"]), masses, ids, ends, drawn]

    first = everything()
    same = all(
        all(torch.equal(a, b) for a, b in zip(first, everything(), strict=True)) for _ in range(sizes.repeats - 1)
    )
    yield row(f"{sizes.repeats} runs, bit by bit", ok=same)
