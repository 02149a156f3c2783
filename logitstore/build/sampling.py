"""From tokens to sparse targets: the teacher and the sampler at work on some sequences."""

# S tokens of a sequence, V vocabulary

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from logitstore.errors import InvalidInput, TeacherError
from logitstore.samplers import teacher_statistics
from logitstore.store.labels import token_labels
from logitstore.targets import STATISTIC_FIELDS, Sampler, SparseTargets, concatenate_targets
from logitstore.teachers import Teacher

#: tokens [S] and document starts of one sequence
PlannedSequence = tuple[NDArray[np.int32], NDArray[np.int32]]


@dataclass(frozen=True)
class TargetMaker:
    """Runs a teacher over sequences and samples its distributions.

    Attributes:
        teacher: tokens in, logits out.
        sampler: logits in, sparse targets out.
        seed: key of the sampler's random numbers.
        teacher_temperature: the logits are divided by it before sampling.
        masked_from: columns from here on belong to no token and get probability 0; None where all belong to one.
        batch_size: sequences given to the teacher at once; None lets the teacher choose.
        statistics: names of the teacher's statistics that the targets carry, as in `check_statistics`.
        eod_id: the end-of-document token, which has no label.
    """

    teacher: Teacher
    sampler: Sampler
    seed: int
    teacher_temperature: float
    masked_from: int | None
    batch_size: int | None
    statistics: tuple[str, ...] = ()
    eod_id: int | None = None

    def targets(
        self, sequences: Iterable[tuple[int, PlannedSequence]]
    ) -> Iterator[tuple[int, PlannedSequence, SparseTargets]]:
        """Yield each sequence's index in the corpus, itself, and its sparse targets on the CPU, in order.

        Raises:
            TeacherError: kind "bad-logits", naming sequence and position.
        """
        for batch in self._batches(sequences):
            parts: list[list[SparseTargets]] = [[] for _ in batch]
            labels = [token_labels(torch.tensor(ids), torch.tensor(starts), self.eod_id) for _, (ids, starts) in batch]
            with torch.inference_mode():
                for number, position, logits in self.teacher.logit_blocks([tokens for _, (tokens, _) in batch]):
                    index, sequence = batch[number]
                    parts[number].append(self._sample(logits, labels[number], index, position))
                    if sum(part.num_positions for part in parts[number]) == len(sequence[0]):
                        yield index, sequence, self._joined(parts[number])
                        parts[number].clear()

    def _batches(self, sequences: Iterable[tuple[int, PlannedSequence]]) -> Iterator[list[tuple[int, PlannedSequence]]]:
        batch: list[tuple[int, PlannedSequence]] = []
        for index, sequence in sequences:
            longest = max(len(tokens) for _, (tokens, _) in [*batch, (index, sequence)])
            if batch and len(batch) + 1 > (self.batch_size or self.teacher.plan_batch_size(longest)):
                yield batch
                batch = []
            batch.append((index, sequence))
        if batch:
            yield batch

    def _sample(self, logits: Tensor, labels: Tensor, index: int, position: int) -> SparseTargets:
        if self.masked_from is not None:
            logits[:, self.masked_from :] = float("-inf")
        if self.teacher_temperature != 1.0:
            logits = logits.float() / self.teacher_temperature
        try:
            targets = self.sampler(logits, seed=self.seed, index=index, first_position=position)
        except InvalidInput as error:
            if error.kind != "bad-logits":
                raise
            raise TeacherError(f"sequence {index}: {error}", kind="bad-logits") from None
        here = labels[position : position + len(logits)].to(logits.device)
        found = teacher_statistics(logits, here, self.statistics, first_position=position)
        fields: dict[str, Any] = {STATISTIC_FIELDS[name]: values for name, values in found.items()}
        return replace(targets, **fields)

    def _joined(self, parts: list[SparseTargets]) -> SparseTargets:
        joined = concatenate_targets(parts).to("cpu")
        return replace(joined, teacher_temperature=self.teacher_temperature)
