"""What a build may be told."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from logitstore.errors import InvalidInput
from logitstore.samplers import Threshold
from logitstore.samplers.statistics import check_statistics
from logitstore.store import Store
from logitstore.store.convert import PROBABILITY_BITS, probability_fields
from logitstore.store.manifest import check_same_settings
from logitstore.store.storage import Storage
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


@dataclass(frozen=True)
class Follows:
    """The store that new data is appended to.

    Attributes:
        manifest: of its first generation.
        first_sequence: how many sequences come before the new ones.
        sha256: identity of all of them.
    """

    manifest: Mapping[str, Any]
    first_sequence: int
    sha256: str

    @classmethod
    def of(cls, store: Store, number: int) -> Self:
        """Return what the `number`-th generation follows."""
        before = store.generations[:number]
        return cls(store.generations[0].manifest, sum(map(len, before)), before[-1].sha256)

    @property
    def fields(self) -> dict[str, Any]:
        """What the manifest of the new generation says of it."""
        return {"first_sequence": self.first_sequence, "follows_sha256": self.sha256}

    def check(self, storage: Storage, wanted: Mapping[str, Any]) -> None:
        """Raise StoreError, kind "settings-differ", where a new manifest differs in more than its data."""
        stored, new = (
            {name: value for name, value in manifest.items() if name not in OF_ITS_DATA}
            for manifest in (self.manifest, wanted)
        )
        for manifest in (stored, new):
            manifest["packing"] = {**manifest["packing"], "limit_tokens": None}
        check_same_settings(storage, stored, new)


#: fields of a manifest that differ from generation to generation
OF_ITS_DATA = (
    "data",
    "text_field",
    "tokens_field",
    "plan",
    "sequences_per_shard",
    "first_sequence",
    "follows_sha256",
    "sealed",
)
