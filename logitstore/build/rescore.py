"""Run the teacher again over some sequences of a store, and see whether the stored targets are its own."""

# T positions of a sequence

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from logitstore.build.agreement import (
    TOLERANCES,
    Scores,
    Tolerance,
    deviation_bound,
    identical_positions,
    overlaps,
    score_positions,
)
from logitstore.build.maker import maker_of
from logitstore.build.options import Tokenizer
from logitstore.build.recorded_teacher import TeacherSource
from logitstore.build.redraw import Redraw
from logitstore.build.rescore_report import Judge, Rescore, Score
from logitstore.build.sampling import PlannedSequence
from logitstore.errors import InvalidInput
from logitstore.progress import Progress
from logitstore.samplers import RandomSampling, Threshold
from logitstore.samplers.philox import Purpose, check_key, uniforms
from logitstore.store import Finding, Sequence, Store, open_store
from logitstore.store.convert import Weighting
from logitstore.store.manifest import flatten
from logitstore.targets import STATISTIC_FIELDS, SparseTargets, concatenate_targets
from logitstore.teachers import Teacher

#: further draws of each position: one tells seeds apart, more estimate the variance of threshold sampling
_REPLICAS = 4
#: what a teacher's provenance says of where it lies, not of what it is
_PLACES = ("id", "gguf_file", "revision", "commit", "device")


def rescore_store(
    path: str | os.PathLike[str] | Store,
    fraction: float,
    *,
    teacher: str | Path | Teacher | None = None,
    tokenizer: Tokenizer | None = None,
    gguf_file: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    batch_size: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    seed: int = 0,
    quiet: bool = False,
) -> Rescore:
    """Run the teacher over a random share of a store's sequences, and compare what it says with what is stored.

    Of top-k and top-p, ids and probabilities must be the same within the error of storing them. Of unbiased samplers
    the entries must be those that the recorded seed draws; the heads of threshold targets must be there; and
    whichever seed drew them, two z statistics over the entries must be small (`agreement`). Right stores are accused
    by them with a chance below 1e-6 (`rescore_report.FALSE_ALARM`).

    Args:
        path: a sealed store.
        fraction: share of the sequences, above 0, at most 1; at least one sequence is run.
        teacher: hub id, local folder, or a `Teacher`; by default what the manifest names.
        tokenizer: of a teacher that is given as an object, to be compared with the recorded one.
        gguf_file: name of the GGUF file in the teacher's folder.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run the checkpoint's own model code.
        batch_size: sequences run at once; by default as many as fit.
        dtype: "auto" is what the store was made with.
        device: "auto", "cpu", "cuda", ...
        seed: chooses the sequences.
        quiet: no progress on stderr.

    Raises:
        InvalidInput: a fraction out of range; no teacher is named and the manifest has none that can be loaded; kind
            "unknown-sampler".
        StoreError: see `open_store`; what is wrong with a sequence that is read.
        TeacherError: the teacher cannot be loaded, or its logits are NaN or infinite.
    """
    if not 0 < fraction <= 1:
        raise InvalidInput(f"the share of sequences to score again is {fraction}; above 0, at most 1 was wanted.")
    check_key(seed, 0)
    store = path if isinstance(path, Store) else open_store(path)
    redraw = Redraw.of(store.manifest)
    named = teacher is None or isinstance(teacher, str | Path)
    if teacher is None or isinstance(teacher, str | Path):
        options = {"gguf_file": gguf_file, "revision": revision, "trust_remote_code": trust_remote_code}
        source = TeacherSource.of(
            store.manifest, str(store.path), model=teacher, options=options, dtype=dtype, at_commit=True
        )
        running, tokenizer = source.load(device, quiet=quiet)
    else:
        running = teacher
    provenance = running.provenance()
    name = str(provenance.get("id")) if named else str(provenance.get("id", type(running).__name__))
    tolerance = TOLERANCES[_coarser(store.manifest, provenance)]
    is_sample = isinstance(redraw.sampler, RandomSampling | Threshold)
    drawn_with = redraw.drawn_with if is_sample else None
    findings = _differences(store, running, tokenizer, name)
    scores: list[Score] = []
    if running.logits_width == store.manifest["vocab_size"]:
        indexes = chosen_sequences(len(store), fraction, seed)
        running.check_seq_len(max(int(store.sequence_lengths[index]) for index in indexes))
        scorer = _Scorer(store, redraw, tolerance, seed)
        scores = list(_scores(scorer, running, indexes, batch_size, quiet=quiet))
        judge = Judge(tolerance, deviation_bound(redraw), len(scores), drawn_with)
        findings += judge.findings(scores)
    recorded = store.manifest.get("teacher")
    differing = _differing(recorded if isinstance(recorded, dict) else {}, provenance)
    return Rescore(name, scores, findings, differing, deviation_bound(redraw), drawn_with, is_sample)


def chosen_sequences(num_sequences: int, fraction: float, seed: int) -> list[int]:
    """Return a random share of the sequences, at least one, ascending; the same for the same seed, anywhere."""
    count = max(1, round(fraction * num_sequences))
    chances = uniforms(torch.arange(num_sequences), 1, seed=seed, index=0, purpose=Purpose.SAMPLING)[:, 0]
    return sorted(chances.argsort(stable=True)[:count].tolist())


def _coarser(manifest: dict[str, Any], provenance: dict[str, Any]) -> str:
    """Return the dtype, of the store's teacher and the one that runs, that has the larger errors."""
    recorded = manifest.get("teacher")
    found = {provenance.get("dtype"), recorded.get("dtype") if isinstance(recorded, dict) else None}
    return max((name for name in TOLERANCES if name in found), default="float32", key=list(TOLERANCES).index)


def _differences(store: Store, teacher: Teacher, tokenizer: Tokenizer | None, name: str) -> list[Finding]:
    """Return what shows before the teacher runs that it is not the store's."""
    findings = []
    width, wanted = teacher.logits_width, store.manifest["vocab_size"]
    if width != wanted:
        text = f"{name} has logits of {width} columns, the store's vocab_size is {wanted}. Is one of them padded?"
        findings.append(Finding("teacher-disagrees", "vocab_size", text))
    recorded = store.manifest.get("tokenizer_sha256")
    if tokenizer is not None and recorded is not None and tokenizer.sha256 != recorded:
        text = (
            f"the tokenizer of {name} has the hash {tokenizer.sha256}, the store was made with {recorded}: the stored "
            "ids are other texts to this teacher."
        )
        findings.append(Finding("teacher-disagrees", "tokenizer_sha256", text))
    return findings


def _differing(recorded: dict[str, Any], found: dict[str, Any]) -> dict[str, list[Any]]:
    there, here = flatten(recorded), flatten(found)
    names = sorted(name for name in there.keys() & here.keys() if name not in _PLACES)
    return {f"teacher.{name}": [there[name], here[name]] for name in names if there[name] != here[name]}


@dataclass
class _Scorer:
    """Stands where the sampler does in a build: draws the targets once more, and scores the stored ones beside them."""

    store: Store
    redraw: Redraw
    tolerance: Tolerance
    seed: int
    #: sequences whose logits are still to come, by index, and what was found of them so far
    stored: dict[int, Sequence] = field(default_factory=dict)
    found: dict[int, list[tuple[Scores, SparseTargets | None]]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.redraw.sampler.name

    def to_dict(self) -> dict[str, Any]:
        return self.redraw.sampler.to_dict()

    def __call__(self, logits: Tensor, *, seed: int = 0, index: int = 0, first_position: int = 0) -> SparseTargets:
        again = self.redraw(logits, index, first_position)
        stored = self.stored[index].targets.slice(first_position, first_position + len(logits)).to(logits.device)
        replicas = []
        if isinstance(self.redraw.sampler, RandomSampling | Threshold):
            # counts have a variance in closed form
            count = _REPLICAS if isinstance(self.redraw.sampler, Threshold) else 1
            replicas = [self.redraw(logits, index, first_position, seed=self._key(number)) for number in range(count)]
        scale = Weighting.of(self.store.manifest).scale
        scores = score_positions(self.redraw, logits, stored, again, replicas, self.tolerance, scale)
        self.found.setdefault(index, []).append((scores, replicas[0].to("cpu") if replicas else None))
        return again

    def _key(self, number: int) -> int:
        """Return the seed of a further draw: no seed that anyone chose for the store."""
        text = f"{self.store.manifest_sha256} {self.seed} {number}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")

    def finish(self, index: int, again: SparseTargets) -> Score:
        """Return the score of a sequence whose logits have all come."""
        stored, parts = self.stored.pop(index).targets, self.found.pop(index)
        has_target = stored.counts > 0
        agrees = torch.cat([scores.agrees for scores, _ in parts]) | ~has_target
        same, by_seed, by_chance = agrees & has_target, 0, 0
        others = [other for _, other in parts if other is not None]
        if others:
            same = identical_positions(stored, again, self.tolerance.probability) & has_target
            ours, theirs = overlaps(stored, again), overlaps(stored, concatenate_targets(others))
            by_seed, by_chance = int((ours > theirs).sum()), int((ours < theirs).sum())
        off = _statistics_off(stored, again, self.tolerance.statistic) & has_target
        return Score(
            sequence=index,
            positions=int(has_target.sum()),
            disagreeing=int((~agrees).sum()),
            statistics_off=int(off.sum()),
            identical=int(same.sum()),
            by_seed=by_seed,
            by_chance=by_chance,
            **{
                name: sum(float(getattr(scores, name).sum()) for scores, _ in parts)
                for name in ("deviation", "variance", "excess", "excess_square")
            },
        )


def _scores(
    scorer: _Scorer, teacher: Teacher, indexes: list[int], batch_size: int | None, *, quiet: bool
) -> Iterator[Score]:
    manifest = scorer.store.manifest
    statistics = _stored_statistics(scorer.store, indexes[0])
    maker = maker_of(manifest | {"statistics": statistics}, teacher, batch_size, scorer)

    def sequences() -> Iterator[tuple[int, PlannedSequence]]:
        for index in indexes:
            sequence = scorer.store[index]
            scorer.stored[index] = sequence
            yield index, (sequence.tokens.numpy(), sequence.document_starts.numpy())

    positions = int(scorer.store.sequence_lengths[indexes].sum())
    with Progress("scoring again", positions, unit="positions", quiet=quiet) as progress:
        for index, (tokens, _), again in maker.targets(sequences()):
            yield scorer.finish(index, again)
            progress.advance(len(tokens))


def _stored_statistics(store: Store, index: int) -> tuple[str, ...]:
    """Return the names of the teacher's statistics that a sequence has."""
    statistics = store[index].targets.statistics
    return tuple(name for name, of_targets in STATISTIC_FIELDS.items() if statistics[of_targets] is not None)


def _statistics_off(stored: SparseTargets, again: SparseTargets, error: float) -> Tensor:
    """Return where a statistic that is stored is not the teacher's, [T] bool."""
    off = torch.zeros(stored.num_positions, dtype=torch.bool)
    for name, values in stored.statistics.items():
        wanted = again.statistics[name]
        if values is not None and wanted is not None:
            # NaN: one of them has no label there
            off |= (values - wanted).abs() > error
    return off
