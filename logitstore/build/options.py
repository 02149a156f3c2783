"""What a build may be told."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from logitstore.errors import InvalidInput
from logitstore.samplers import Threshold
from logitstore.samplers.statistics import check_statistics
from logitstore.store.convert import PROBABILITY_BITS, probability_fields
from logitstore.targets import Sampler
from logitstore.teachers import Teacher

DEFAULT_SAMPLER = Threshold(draws=20)


class Tokenizer(Protocol):
    """What `build` asks of a tokenizer; see `logitstore.teachers.TeacherTokenizer`."""

    @property
    def bos_id(self) -> int | None: ...

    @property
    def eod_id(self) -> int | None: ...

    @property
    def size(self) -> int: ...

    @property
    def sha256(self) -> str: ...

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class BuildOptions:
    """Everything `build` may be told; see there."""

    teacher: str | Path | Teacher
    data: Sequence[str | os.PathLike[str]]
    tokenizer: Tokenizer | None = None
    gguf_file: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    text_field: str = "text"
    tokens_field: str | None = None
    seq_len: int = 1024
    pack: bool = True
    bos: bool = True
    sampler: Sampler = DEFAULT_SAMPLER
    teacher_temperature: float = 1.0
    statistics: Sequence[str] = ()
    probability_bits: int = PROBABILITY_BITS
    limit_tokens: int | None = None
    batch_size: int | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    seed: int = 0
    workers: int = 1
    resume: bool = False
    quiet: bool = False

    def check(self) -> None:
        """Raise InvalidInput where a value cannot be used, before anything is read."""
        if not 0 < self.teacher_temperature < float("inf"):
            raise InvalidInput(f"teacher_temperature is {self.teacher_temperature}; a number above 0 was wanted.")
        if self.batch_size is not None and self.batch_size < 1:
            raise InvalidInput(f"batch_size is {self.batch_size}; at least 1 was wanted.")
        if not 0 <= self.seed < 1 << 64:
            raise InvalidInput(f"seed is {self.seed}; a whole number from 0 to 2^64 - 1 was wanted.")
        check_statistics(self.statistics)
        probability_fields(self.sampler.to_dict(), self.probability_bits)
        if isinstance(self.data, str | os.PathLike) or not self.data:
            raise InvalidInput("data is no list of paths; at least one file, folder or glob was wanted.")

    @property
    def source(self) -> dict[str, Any]:
        """Where the teacher comes from, as the teachers room takes it."""
        return {"gguf_file": self.gguf_file, "revision": self.revision, "trust_remote_code": self.trust_remote_code}


def say(options: BuildOptions, text: str) -> None:
    if not options.quiet:
        print(text, file=sys.stderr, flush=True)
