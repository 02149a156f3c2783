"""The target maker that a manifest describes."""

from __future__ import annotations

from typing import Any

from logitstore.build.sampling import TargetMaker
from logitstore.build.teacher_source import masked_columns
from logitstore.samplers import sampler_from_dict
from logitstore.targets import Sampler
from logitstore.teachers import Teacher


def maker_of(
    manifest: dict[str, Any], teacher: Teacher, batch_size: int | None, sampler: Sampler | None = None
) -> TargetMaker:
    """Return what makes the targets of a store.

    Args:
        manifest: the store's.
        teacher: the store's, ready to run.
        batch_size: sequences given to it at once; None lets it choose.
        sampler: the store's, where it is none that `sampler_from_dict` knows, or what stands in its place.
    """
    seed = manifest.get("seed")
    return TargetMaker(
        teacher,
        sampler_from_dict(manifest["sampler"]) if sampler is None else sampler,
        seed if isinstance(seed, int) else 0,
        manifest["teacher_temperature"],
        masked_columns(teacher, manifest.get("tokenizer_size")),
        batch_size,
        tuple(manifest["statistics"]),
        manifest.get("eod_id"),
    )
