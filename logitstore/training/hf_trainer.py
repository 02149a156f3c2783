"""Distillation from a store in Hugging Face's Trainer: a collator and a loss, nothing to subclass."""

# B sequences of a batch, S tokens of the longest, T = B * S positions, V vocabulary

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from logitstore.errors import InvalidInput
from logitstore.loader import LogitDataset, Sample, collate_samples
from logitstore.losses import sparse_kd_loss
from logitstore.targets import PaddedTargets, SparseTargets


@dataclass(frozen=True, eq=False)
class TrainerLabels:
    """What travels through Trainer under the name "labels": a batch's targets and labels.

    Trainer takes it out of the batch before it calls the model, and hands it to the loss. Until then it treats it as a
    tensor in the few ways that are implemented here.

    Attributes:
        targets: over T positions.
        labels: [B, S] int64, already shifted; -100 is ignored.
    """

    targets: SparseTargets | PaddedTargets
    labels: Tensor

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> TrainerLabels:
        """Return the same on `device`."""
        place = torch.device(device)
        targets = self.targets.to(place, non_blocking=non_blocking)
        return TrainerLabels(targets, self.labels.to(place, non_blocking=non_blocking))

    def pin_memory(self) -> TrainerLabels:
        """Return the same in page-locked memory."""
        return TrainerLabels(self.targets.pin_memory(), self.labels.pin_memory())

    def ne(self, ignored_label: int) -> Tensor:
        """Return which positions count in the loss, [T] bool: those with a target, whatever their labels are.

        Trainer sums it over the batches of a step (gradient accumulation, processes) to get `num_items_in_batch`.
        """
        if isinstance(self.targets, PaddedTargets):
            return (self.targets.ids >= 0).any(dim=1)
        return self.targets.counts > 0

    def __getitem__(self, key: Any) -> TrainerLabels:
        """Return the whole, whatever `key`.

        For models that shift their labels Trainer counts `labels[..., 1:]`. These are aligned with the logits
        already: every position counts, the first as well.
        """
        return self


class TrainerPlugin:
    """What makes Hugging Face's Trainer distil from a store.

        dataset = LogitDataset(path, shuffle=False, rank=0, world_size=1)
        plugin = TrainerPlugin(dataset, alpha=0.9)
        trainer = Trainer(model, args, train_dataset=dataset, data_collator=plugin.collate,
                          compute_loss_func=plugin.compute_loss)

    Trainer shuffles and shards by itself, hence the dataset's arguments; its `remove_unused_columns` does not touch
    the samples. The loss of a step is the mean over the positions with a target of all its batches, so that gradient
    accumulation and several processes change nothing. `evaluate` reports the same loss on any LogitDataset of the same
    vocabulary; predictions and `compute_metrics` need labels as a plain tensor and are not supported.

    Args:
        dataset: what is trained on.
        alpha, temperature, value: as in `sparse_kd_loss`.

    Raises:
        InvalidInput: the dataset shards by itself, or the options do not fit each other or the store.
    """

    def __init__(
        self,
        dataset: LogitDataset,
        *,
        alpha: float = 1.0,
        temperature: float = 1.0,
        value: Literal["soft_cross_entropy", "kl"] = "soft_cross_entropy",
    ) -> None:
        if dataset.world_size != 1:
            raise InvalidInput(
                f"the dataset reads as rank {dataset.rank} of {dataset.world_size}, and Trainer would divide that "
                "among its processes once more. Make it with LogitDataset(..., rank=0, world_size=1)."
            )
        self._dataset = dataset
        self._options: dict[str, Any] = {"alpha": alpha, "temperature": temperature, "value": value}
        self._refuse_bad_options()

    def _refuse_bad_options(self) -> None:
        """Compute the loss of one position, so that options which do not fit are refused before training starts."""
        sample = self._dataset[0]
        logits = torch.zeros(1, self._dataset.store.max_id + 1)
        sparse_kd_loss(logits, sample.targets.slice(0, 1), sample.labels[:1], **self._options)

    @staticmethod
    def collate(samples: Sequence[Sample]) -> dict[str, Any]:
        """Return a batch as Trainer and model want it: input_ids and attention_mask [B, S] int64, and "labels"."""
        batch = collate_samples(samples)
        return {
            "input_ids": batch.tokens,
            "attention_mask": batch.attention_mask,
            "labels": TrainerLabels(batch.targets, batch.labels),
        }

    def compute_loss(self, outputs: Any, labels: Any, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Return the batch's share in the loss of a step.

        Args:
            outputs: of the model, called without labels: a mapping with "logits" [B, S, V], or a tuple that begins
                with them.
            labels: `TrainerLabels` of the batch.
            num_items_in_batch: positions with a target in the whole step; None for those of this batch.

        Raises:
            InvalidInput: the batch does not come from `collate`, or Trainer runs several GPUs in one process.
            StoreError: kind "alignment-mismatch": the store has token ids beyond V.
        """
        if not isinstance(labels, TrainerLabels):
            raise InvalidInput(
                f"the labels of the batch are a {type(labels).__name__}, without sparse targets. Give Trainer "
                "data_collator=plugin.collate and a LogitDataset."
            )
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
        self._dataset.check_student(logits.shape[-1])
        labels = labels.to(logits.device)
        if num_items_in_batch is None:
            return sparse_kd_loss(logits, labels.targets, labels.labels, **self._options)
        num_items = torch.as_tensor(num_items_in_batch, device=logits.device)
        if num_items.ndim > 0:
            raise InvalidInput(
                f"Trainer runs {len(num_items)} GPUs in one process (DataParallel), where it scales the loss twice. "
                "Start one process a GPU with `torchrun --nproc-per-node`, or make one GPU visible "
                "(CUDA_VISIBLE_DEVICES=0)."
            )
        return sparse_kd_loss(
            logits, labels.targets, labels.labels, reduction="sum", **self._options
        ) / num_items.clamp(min=1)
