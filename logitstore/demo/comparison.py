"""Train one student twice, with cross-entropy and with sparse KD, and measure both on held-out sequences."""

# B sequences, S positions of a sequence, H held-out positions, C columns

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from logitstore.demo.student import Student, StudentShape
from logitstore.demo.vocabulary import IGNORED_LABEL
from logitstore.targets import SparseTargets


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """A batch over the compact vocabulary: tokens and labels [B, S] int64, targets over B * S positions."""

    tokens: Tensor
    labels: Tensor
    targets: SparseTargets


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What students are measured on.

    Attributes:
        tokens: one [S] int64 a sequence.
        labels: one [S] int64 a sequence, -100 where there is none.
        teacher: the teacher's exact distribution, one [S, C] float32 a sequence.
    """

    tokens: list[Tensor]
    labels: list[Tensor]
    teacher: list[Tensor]

    @property
    def num_positions(self) -> int:
        return sum(len(row) for row in self.tokens)

    def other_mass(self) -> float:
        """Return the teacher's mean probability of the last column, which stands for all ids that are not kept."""
        return float(torch.cat(self.teacher)[:, -1].mean())

    def teacher_loss(self) -> float:
        """Return the teacher's own next-token loss in nats, the mean over the labels."""
        losses = [
            -rows[labels != IGNORED_LABEL].gather(1, labels[labels != IGNORED_LABEL, None]).log()
            for rows, labels in zip(self.teacher, self.labels, strict=True)
        ]
        return float(torch.cat(losses).mean())


@dataclass(frozen=True)
class Point:
    """One held-out measurement: after `steps` steps and `seconds` of training; loss and KL in nats."""

    steps: int
    seconds: float
    loss: float
    kl: float


@dataclass
class Curve:
    """The measurements of one student and the seconds of each of its steps."""

    points: list[Point] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)

    @property
    def median_step_s(self) -> float:
        return statistics.median(self.step_seconds)

    def to_dict(self) -> dict[str, Any]:
        """Return points and the median step time."""
        return {"points": [asdict(point) for point in self.points], "median_step_seconds": self.median_step_s}


@dataclass(frozen=True)
class TrainingPlan:
    """How both students are trained; AdamW with a linear warm-up and a cosine decay to a tenth.

    Args:
        steps: of each student.
        batch_size: sequences of a step.
        measurements: on the held-out sequences, the one before training not counted.
        learning_rate: at its highest; at 2e-3 cross-entropy jumps from 6 to 10 nats around step 50, which flatters KD.
        weight_decay: AdamW's.
        seed: of the students' parameters.
    """

    steps: int
    batch_size: int = 4
    measurements: int = 12
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    seed: int = 0

    def rate_factor(self, step: int) -> float:
        """Return the share of the learning rate that step number `step` uses."""
        warmup = max(1, self.steps // 20)
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, self.steps - warmup)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * done))

    def measured_after(self) -> set[int]:
        """Return the numbers of steps after which the students are measured."""
        return {round(self.steps * i / self.measurements) for i in range(1, self.measurements + 1)}


def cross_entropy_of(logits: Tensor, batch: TrainingBatch) -> Tensor:
    """Return the mean cross-entropy of the labels."""
    return functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED_LABEL)


def sparse_kd_of(logits: Tensor, batch: TrainingBatch) -> Tensor:
    """Return the sparse KD loss of the batch's targets; labels play no part."""
    from logitstore.losses import sparse_kd_loss

    return sparse_kd_loss(logits, batch.targets)


#: the two students, by what they are trained with
LOSSES: dict[str, Callable[[Tensor, TrainingBatch], Tensor]] = {
    "cross-entropy": cross_entropy_of,
    "sparse KD": sparse_kd_of,
}


class _Trainee:
    def __init__(
        self, shape: StudentShape, loss: Callable[[Tensor, TrainingBatch], Tensor], plan: TrainingPlan
    ) -> None:
        self.student = Student(shape, seed=plan.seed)
        self.loss = loss
        self.curve = Curve()
        self.optimiser = torch.optim.AdamW(
            self.student.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay, betas=(0.9, 0.95)
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, plan.rate_factor)

    def step(self, batch: TrainingBatch) -> None:
        begin = time.perf_counter()
        self.optimiser.zero_grad()
        self.loss(self.student(batch.tokens), batch).backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.curve.step_seconds.append(time.perf_counter() - begin)
        self.schedule.step()

    def measure(self, held_out: HeldOut) -> None:
        loss, kl = evaluate(self.student, held_out)
        steps = len(self.curve.step_seconds)
        self.curve.points.append(Point(steps, sum(self.curve.step_seconds), loss, kl))


def compare_losses(
    batches: Iterator[TrainingBatch],
    held_out: HeldOut,
    shape: StudentShape,
    plan: TrainingPlan,
    *,
    on_step: Callable[[dict[str, Curve]], None] = lambda curves: None,
) -> dict[str, Curve]:
    """Train two equal students on the same batches in the same order, one with each of `LOSSES`.

    They take turns step by step, so that a machine's slow minute hits both. Only forward pass, loss, backward pass
    and optimiser are on the clock.

    Args:
        batches: at least `plan.steps` of them.
        held_out: sequences that are in none of the batches.
        shape: of the students.
        plan: of the training.
        on_step: called after each pair of steps with the curves so far.

    Returns:
        the curve of each student, by the name of its loss.
    """
    trainees = {name: _Trainee(shape, loss, plan) for name, loss in LOSSES.items()}
    curves = {name: trainee.curve for name, trainee in trainees.items()}
    measured_after = plan.measured_after()
    for trainee in trainees.values():
        trainee.measure(held_out)
    for steps in range(1, plan.steps + 1):
        batch = next(batches)
        for trainee in trainees.values():
            trainee.step(batch)
            if steps in measured_after:
                trainee.measure(held_out)
        on_step(curves)
    return curves


@torch.no_grad()
def evaluate(student: Student, held_out: HeldOut) -> tuple[float, float]:
    """Return the student's mean next-token loss and its mean KL(teacher || student), both in nats."""
    loss_sum = kl_sum = 0.0
    num_labels = 0
    for tokens, labels, teacher in zip(held_out.tokens, held_out.labels, held_out.teacher, strict=True):
        log_student = functional.log_softmax(student(tokens[None])[0], dim=-1)
        loss_sum += float(functional.nll_loss(log_student, labels, ignore_index=IGNORED_LABEL, reduction="sum"))
        num_labels += int((labels != IGNORED_LABEL).sum())
        kl_sum += float(functional.kl_div(log_student, teacher, reduction="sum"))
    return loss_sum / num_labels, kl_sum / held_out.num_positions
