"""The demo's printed explanation and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from logitstore.demo.comparison import Curve, TrainingPlan
from logitstore.demo.held_out import HELD_OUT_EVERY
from logitstore.demo.student import Student, StudentShape


def explain_comparison(
    shape: StudentShape, plan: TrainingPlan, *, train: Sequence[int], held_out: Sequence[int], vocab_size: int
) -> str:
    """Return what is trained on what, and what may be compared."""
    parameters = Student(shape, seed=plan.seed).num_parameters
    return (
        f"Student: causal transformer, {shape.layers} layers, width {shape.width}, {parameters:,} parameters.\n"
        f"Both runs: {plan.steps} steps of {plan.batch_size} sequences, AdamW at {plan.learning_rate:g}, seed "
        f"{plan.seed}, the same parameters to begin with and the same batches in the same order.\n"
        f"One sequence in {HELD_OUT_EVERY} is held out: {len(held_out)} of {len(train) + len(held_out)}. The training "
        "losses of the two are different quantities and are not compared.\n"
        f"To save time the student has {shape.columns:,} columns, not {vocab_size:,}: the ids of the text and of the "
        "held-out entries, and one 'other' for all the rest.\n"
        "Adding up the weights of ids that share a column keeps the targets unbiased. KL is exact over these columns; "
        "over the full vocabulary it would be no smaller."
    )


def comparison_table(curves: Mapping[str, Curve], *, teacher_loss: float) -> str:
    """Return held-out loss and KL of both students, measurement by measurement, as a table."""
    (first_name, first), (second_name, second) = curves.items()
    lines = [
        "          held-out next-token loss   |     held-out KL to teacher    |      training seconds",
        f"  steps  {first_name:>13} {second_name:>11} | {first_name:>16} {second_name:>11}  "
        f"| {first_name:>13} {second_name:>9}",
    ]
    lines += [
        f"  {a.steps:>5}  {a.loss:>13.3f} {b.loss:>11.3f}  | {a.kl:>16.3f} {b.kl:>11.3f}  "
        f"| {a.seconds:>13.1f} {b.seconds:>9.1f}"
        for a, b in zip(first.points, second.points, strict=True)
    ]
    lines.append(f"  the teacher's own held-out loss is {teacher_loss:.3f}")
    return "\n".join(lines)


def comparison_summary(curves: Mapping[str, Curve], *, step_time_ratio: float, other_mass: float) -> str:
    """Return the last and the best measurements of both students, and their step times."""
    lines = []
    for name, curve in curves.items():
        last = curve.points[-1]
        best = min(curve.points, key=lambda point: point.loss)
        lines.append(
            f"{name}: held-out loss {last.loss:.3f} at the end, {best.loss:.3f} at its best (step {best.steps}); "
            f"KL {last.kl:.3f} at the end, {min(point.kl for point in curve.points):.3f} at its best; "
            f"median step {1000 * curve.median_step_s:.0f} ms"
        )
    lines.append(f"A step with sparse KD takes {step_time_ratio:.2f} times a step with cross-entropy.")
    lines.append(
        f"The teacher gives 'other' {100 * other_mass:.1f} % of its mass. No label is 'other', so cross-entropy does not "
        "learn it: that is part of its KL, as unseen ids are over the full vocabulary."
    )
    return "\n".join(lines)
