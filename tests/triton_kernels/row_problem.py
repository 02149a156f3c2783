"""Random inputs of `select_lse`, and the dense float64 formula that its kernels are judged by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitstore.triton_kernels.select_lse import select_lse_backward, select_lse_forward
from tests.triton_kernels.kernel_device import DEVICE

NAMES = ("lse", "lse_one", "mean", "selected", "label_logits")


@dataclass
class RowProblem:
    """Arguments of `select_lse_forward`, and a random gradient for each of its outputs."""

    logits: Tensor
    offsets: Tensor
    ids: Tensor
    labels: Tensor | None
    temperature: float = 1.0
    softcap: float = 0.0
    with_mean: bool = False

    @property
    def arguments(self):
        return self.logits, self.offsets, self.ids, self.labels, self.temperature, self.softcap

    def forward(self, **options) -> tuple[Tensor, ...]:
        return select_lse_forward(*self.arguments, self.with_mean, **options)

    def gradients_like(self, outputs: tuple[Tensor, ...]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(7)
        return [torch.randn(len(o), generator=generator).to(o.device) for o in outputs]

    def backward(self, outputs, gradients, **options) -> Tensor:
        lse, lse_one, _, selected, label_logits = outputs
        return select_lse_backward(*self.arguments, lse, lse_one, selected, label_logits, *gradients, **options)

    def oracle(self, gradients=None):
        """Return the outputs in float64, row by row and dense, and the gradient at the logits by autograd."""
        logits = self.logits.detach().cpu().double().requires_grad_()
        offsets, ids = self.offsets.tolist(), self.ids.tolist()
        outputs = [[], [], [], [torch.zeros((), dtype=torch.float64)] * len(ids), []]
        for row in range(len(logits)):
            entries = [place for place in range(offsets[row], offsets[row + 1]) if ids[place] >= 0]
            s = logits[row] if entries else torch.zeros(logits.shape[1], dtype=torch.float64)
            s = self.softcap * torch.tanh(s / self.softcap) if self.softcap else s
            keep = float(bool(entries))
            outputs[0].append(keep * torch.logsumexp(s / self.temperature, 0))
            outputs[1].append(keep * torch.logsumexp(s, 0))
            outputs[2].append(keep * s.mean())
            for place in entries:
                outputs[3][place] = s[ids[place]]
            label = -100 if self.labels is None or not entries else int(self.labels[row])
            outputs[4].append(s[label] if label != -100 else s.sum() * 0)
        wanted = [True, self.temperature != 1, self.with_mean, True, self.labels is not None]
        stacked = [torch.stack(o) if w and o else torch.zeros(0).double() for o, w in zip(outputs, wanted, strict=True)]
        if gradients is None:
            return stacked, None
        total = logits.sum() * 0
        for output, gradient in zip(stacked, gradients, strict=True):
            total = total + (output * gradient.cpu().double()).sum()
        return stacked, torch.autograd.grad(total, logits)[0]


def row_problem(
    counts, vocab_size, *, dtype=torch.float32, labels=True, seed=0, scale=3.0, logits=None, **options
) -> RowProblem:
    """Return a problem whose position t has counts[t] entries (fewer where the vocabulary is), some of them padding."""
    generator = torch.Generator().manual_seed(seed)
    if logits is None:
        logits = (torch.randn(len(counts), vocab_size, generator=generator) * scale).to(DEVICE, dtype)
    rows = [torch.randperm(vocab_size, generator=generator)[:count].int() for count in counts]
    for row in rows:
        row[3::5] = -1
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    ids = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int32)
    chosen = None
    if labels:
        chosen = torch.randint(vocab_size, (len(counts),), generator=generator)
        for row, entries in enumerate(rows):
            if row % 3 == 0 and len(entries):
                chosen[row] = entries[0]  # the label is an entry
            elif row % 3 == 1:
                chosen[row] = -100
        chosen = chosen.to(DEVICE)
    return RowProblem(logits, offsets.to(DEVICE), ids.to(DEVICE), chosen, **options)
