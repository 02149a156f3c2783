"""The fused linear loss: chunk sweep against the bare matrix products, and against other fused losses."""

# T positions, V vocabulary, D hidden width

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

import logitstore
from bench.gpu_parts.measure import Rows, bar, extra_bytes, median_ms, random_targets, row
from bench.gpu_parts.sizes import Sizes

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def measure_linear(sizes: Sizes) -> Rows:
    """Every size: bare products, ours by chunk size, the others; at the end the bars, at the default chunk size."""
    for T, D, V in sizes.linear:
        generator = torch.Generator(sizes.device).manual_seed(0)
        hidden = torch.randn(T, D, device=sizes.device, generator=generator).bfloat16().requires_grad_()
        weight = (torch.randn(V, D, device=sizes.device, generator=generator) / D**0.5).bfloat16().requires_grad_()
        labels = torch.randint(V, (T,), device=sizes.device, generator=generator)
        name = f"T={T} D={D} V={V}"
        bare = bare_products_ms(sizes, hidden, weight)
        yield row(f"{name} bare products", bare)

        def timed(loss: Loss, data: tuple[Tensor, Tensor, Tensor] = (hidden, weight, labels)) -> tuple[float, int]:
            step = gradient_step(loss, *data)
            return median_ms(step, sizes.device, max(1, sizes.rounds // 2)), extra_bytes(step, sizes.device)

        for chunk_bytes in sizes.chunk_bytes:
            ms, extra = timed(our_loss(T, V, 50, sizes.device, chunk_bytes=chunk_bytes))
            yield row(f"{name} ours K=50 chunk {chunk_bytes >> 20} MiB", ms, over_bare=ms / bare, extra_gb=extra / 1e9)
        ours, extra = timed(our_loss(T, V, 50, sizes.device))
        hard, _ = timed(our_loss(T, V, 1, sizes.device))
        yield row(
            f"{name} ours K=50",
            ours,
            over_bare=bar(ours / bare, 1.15),
            sparse_over_hard=bar(ours / hard, 1.01),
            extra_gb=bar(extra / 1e9, 1.5),
        )
        others: dict[str, float] = {}
        for other, loss in other_losses(sizes):
            try:
                others[other], other_extra = timed(loss)
            except Exception as error:  # another library's failure is a result, not ours
                yield row(f"{name} {other}", failed=f"{type(error).__name__}: {error}"[:200])
                continue
            yield row(f"{name} {other}", others[other], over_bare=others[other] / bare, extra_gb=other_extra / 1e9)
        if others:
            best = min(others, key=others.__getitem__)
            yield row(f"{name} best other: {best}", others[best], ours_over_it=bar(ours / others[best], 1.0))


def gradient_step(loss: Loss, hidden: Tensor, weight: Tensor, labels: Tensor) -> Callable[[], None]:
    """Return a function that computes a loss and both gradients."""

    def step() -> None:
        hidden.grad = weight.grad = None
        loss(hidden, weight, labels).backward()

    return step


def our_loss(T: int, V: int, count: int, device: str, chunk_bytes: int | None = None) -> Loss:
    """Return the fused loss with `count` entries a position."""
    targets = random_targets(T, V, min(count, V), device)
    return lambda hidden, weight, _: logitstore.linear_sparse_kd_loss(hidden, weight, targets, chunk_bytes=chunk_bytes)


def bare_products_ms(sizes: Sizes, hidden: Tensor, weight: Tensor) -> float:
    """Return milliseconds of the three matrix products that any such loss needs, whole and without anything else."""
    h, w = hidden.detach(), weight.detach()
    logits = h @ w.t()

    def products() -> None:
        torch.mm(h, w.t(), out=logits)
        torch.mm(logits, w)
        torch.mm(logits.t(), h)

    return median_ms(products, sizes.device, max(1, sizes.rounds // 2))


def other_losses(sizes: Sizes) -> Iterator[tuple[str, Loss]]:
    """Yield other ways to the same hard-label loss: torch's, libraries' where they are installed, torch's compiled."""

    def plain(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy((hidden @ weight.t()).float(), labels)

    yield "linear + F.cross_entropy", plain
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        liger = LigerFusedLinearCrossEntropyLoss()
        yield "liger-kernel", lambda hidden, weight, labels: liger(weight, hidden, labels)
    except ImportError:
        pass
    try:
        from cut_cross_entropy import linear_cross_entropy

        yield "cut-cross-entropy", linear_cross_entropy
    except ImportError:
        pass
    if sizes.device != "cpu":
        yield "torch.compile of linear + F.cross_entropy", torch.compile(plain)
