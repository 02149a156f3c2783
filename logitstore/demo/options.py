"""What the demo takes and what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logitstore.demo.comparison import Curve
from logitstore.errors import InvalidInput


@dataclass(frozen=True)
class DemoOptions:
    """What to show, with what, and where.

    Args:
        teacher: a model as `logitstore build --teacher` takes it; None for Gemma 3 270M from `logitstore[demo]`.
        gguf_file: of that teacher, where it is a GGUF file.
        data: text files; None for the text that comes with logitstore, the Queries of Newton's Opticks.
        out: folder for store, picture, result and the packaged teacher.
        positions: how much of the text is stored, counted in tokens.
        seq_len: tokens of a sequence.
        draws: of random sampling, a position.
        steps: of each student.
        batch_size: sequences of a training batch.
        seed: of the draws, the order of the batches and the students' parameters.
        device: the teacher runs on; students are trained on the CPU.

    Raises:
        InvalidInput: a number below 1, or a file of a teacher that is not named.
    """

    teacher: str | None = None
    gguf_file: str | None = None
    data: Sequence[str | Path] | None = None
    out: Path = Path("demo-out")
    positions: int = 9_216
    seq_len: int = 256
    draws: int = 50
    steps: int = 200
    batch_size: int = 4
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("positions", "seq_len", "draws", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; at least 1 was wanted.")
        if self.seq_len < 2:
            raise InvalidInput("seq_len is 1; at least 2 was wanted, as a single token has no next one.")
        if self.gguf_file is not None and self.teacher is None:
            raise InvalidInput(f"gguf_file is {self.gguf_file!r} without a teacher; name the teacher it belongs to.")


@dataclass(frozen=True)
class DemoResult:
    """What the demo found; losses and KL in nats, on held-out sequences.

    Attributes:
        store: folder of the store.
        plot: the PNG.
        result: the JSON file of what is here.
        statistics: of the store.
        teacher_loss: the teacher's own next-token loss.
        curves: measurements of each student, by the name of its loss.
        step_time_ratio: median step of sparse KD over median step of cross-entropy.
        other_mass: the teacher's mean probability, on held-out positions, of the ids without a column of their own.
        settings: student, steps, seed and the rest that makes the numbers.
    """

    store: Path
    plot: Path
    result: Path
    statistics: Mapping[str, Any]
    teacher_loss: float
    curves: Mapping[str, Curve]
    step_time_ratio: float
    other_mass: float
    settings: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            "settings": dict(self.settings),
            "store_statistics": dict(self.statistics),
            "teacher_loss": self.teacher_loss,
            "step_time_ratio": self.step_time_ratio,
            "other_mass": self.other_mass,
            "students": {name: curve.to_dict() for name, curve in self.curves.items()},
            "store": str(self.store),
            "plot": str(self.plot),
        }
