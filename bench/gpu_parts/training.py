"""A training step of a student from a store, against the same step with the best hard-label cross-entropy."""

# B sequences, S positions of a sequence, V vocabulary

from __future__ import annotations

import importlib.util
import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import logitstore
from bench.gpu_parts.linear import other_losses
from bench.gpu_parts.measure import Rows, bar, median_ms, random_targets, row
from bench.gpu_parts.sizes import Sizes
from bench.gpu_parts.student import Student
from logitstore.samplers import RandomSampling
from logitstore.targets import SparseTargets


@dataclass(frozen=True)
class MemoryBatch:
    """What a batch of the loader has, without a store: for machines that lack zarr."""

    tokens: Tensor
    labels: Tensor
    targets: SparseTargets

    def to(self, device: str, *, non_blocking: bool) -> MemoryBatch:
        """Return the same on the device."""
        moved = [part.to(device, non_blocking=non_blocking) for part in (self.tokens, self.labels, self.targets)]
        return MemoryBatch(*moved)


def memory_batches(sizes: Sizes) -> Iterator[MemoryBatch]:
    """Yield one batch without end."""
    V = sizes.student_vocabulary
    tokens = torch.randint(V, (sizes.batch, sizes.seq_len), generator=torch.Generator().manual_seed(0))
    yield from itertools.repeat(MemoryBatch(tokens, tokens.roll(-1, 1), random_targets(tokens.numel(), V, 10, "cpu")))


def store_batches(sizes: Sizes, folder: Path) -> Iterator[Any]:
    """Write a store of random-sampling targets, 10 entries a position, and yield its batches without end."""
    V, S = sizes.student_vocabulary, sizes.seq_len
    generator = torch.Generator().manual_seed(0)
    with logitstore.create_store(folder / "store", vocab_size=V, sampler=RandomSampling(50)) as writer:
        targets = random_targets(S, V, 10, "cpu")  # 5 draws each: 50, as the sampler says
        for _ in range(4 * sizes.batch):
            writer.append(torch.randint(V, (S,), generator=generator).numpy(), targets)
    dataset = logitstore.LogitDataset(folder / "store", shuffle=True, seed=0)
    loader = logitstore.make_dataloader(dataset, batch_size=sizes.batch, num_workers=0 if sizes.device == "cpu" else 2)
    for epoch in itertools.count():
        loader.set_epoch(epoch)
        yield from loader


def measure_training(sizes: Sizes) -> Rows:
    """The step with our loss, the loader included, and with each hard-label loss, from the same batches."""
    torch.manual_seed(0)
    student = Student(*sizes.student, sizes.student_vocabulary).to(sizes.device, torch.bfloat16)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=sizes.device != "cpu")
    size = sum(parameter.numel() for parameter in student.layers.parameters())
    yield row("student", parameters_without_embeddings=size)
    with tempfile.TemporaryDirectory() as folder:
        if importlib.util.find_spec("zarr") and importlib.util.find_spec("pcodec"):
            batches, source = store_batches(sizes, Path(folder)), "a store"
        else:
            batches, source = memory_batches(sizes), "memory (no zarr or pcodec here, so no store)"

        def timed(loss: Callable[[Any, Any], Any]) -> float:
            def step() -> None:
                batch = next(batches).to(sizes.device, non_blocking=True)
                loss(student(batch.tokens), batch).backward()
                optimizer.step()
                optimizer.zero_grad()

            return median_ms(step, sizes.device, sizes.steps)

        ours = timed(lambda hidden, batch: logitstore.linear_sparse_kd_loss(hidden, student.head, batch.targets))
        yield row(f"step, sparse targets from {source}", ours)
        hard: dict[str, float] = {}
        for name, loss in other_losses(sizes):
            try:
                hard[name] = timed(
                    lambda hidden, batch, loss=loss: loss(hidden.flatten(0, 1), student.head, batch.labels.flatten())
                )
            except Exception as error:  # another library's failure is a result, not ours
                yield row(f"step, {name}", failed=f"{type(error).__name__}: {error}"[:200])
                continue
            yield row(f"step, {name}", hard[name], ours_over_it=ours / hard[name])
        if hard:
            best = min(hard.values())
            yield row("step, best cross-entropy", best, ours_over_best=bar(ours / best, 1.02))
