"""Many samplers at work on the same logits: what each keeps, what it costs, and how noisy it is."""

# T positions, V vocabulary

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from logitstore import codec
from logitstore.build.sampling import PlannedSequence, TargetMaker
from logitstore.errors import InvalidInput, TeacherError
from logitstore.samplers import AnySampler, RandomSampling, total_variance
from logitstore.store.convert import PROBABILITY_BITS, Weighting, probability_fields, to_arrays
from logitstore.store.frequency_table import fit_table
from logitstore.targets import SparseTargets, concatenate_targets

#: the first tokens that a process runs are slow, and not counted
_WARM_UP_TOKENS = 8


@dataclass
class Tally:
    """Sums over the probed positions for one sampler.

    Attributes:
        sampler: what was tried.
        positions: positions that were sampled, encoded and counted.
        entries: entries of all of them.
        token_bytes: bytes of the blobs' tokens.
        entry_bytes: bytes of their entries.
        blob_bytes: bytes of the blobs, front and checksum included.
        table_bytes: of the frequency table.
        kept_mass: weights of all positions, for a biased sampler: the teacher's probability that was kept.
        variance: variance of the weights, for an unbiased sampler, in closed form.
        sampling_seconds: time of the sampler.
        encoding_seconds: time of checking and encoding, which a build does beside the teacher.
        arrays: the sequences, as they are stored.
    """

    sampler: AnySampler
    positions: int = 0
    entries: int = 0
    token_bytes: float = 0
    entry_bytes: float = 0
    blob_bytes: float = 0
    table_bytes: int = 0
    kept_mass: float = 0.0
    variance: float = 0.0
    sampling_seconds: float = 0.0
    encoding_seconds: float = 0.0
    arrays: list[codec.SequenceArrays] = field(default_factory=list)

    def measure(self, targets: SparseTargets, logits: Tensor, of_one_draw: float) -> None:
        """Add what is told by the logits [T, V]; `of_one_draw` is the variance of random-sampling with 1 draw."""
        if not self.sampler.unbiased:
            self.kept_mass += float(targets.weights.double().sum())
        elif isinstance(self.sampler, RandomSampling) and self.sampler.proposal_power == 1.0:
            # one pass over the logits is enough for all budgets: the variance of n draws is that of one, over n
            self.variance += of_one_draw / self.sampler.draws
        else:
            self.variance += float(total_variance(self.sampler, logits).sum())

    def add(self, tokens: NDArray[np.int32], targets: SparseTargets, vocab_size: int, where: str) -> None:
        """Add one sequence, converted as a store holds it."""
        begin = time.monotonic()
        manifest = self._manifest(targets.teacher_temperature)
        self.arrays.append(to_arrays(tokens, targets, Weighting.of(manifest), vocab_size, where))
        self.encoding_seconds += time.monotonic() - begin
        self.positions += targets.num_positions
        self.entries += targets.num_entries

    def encode(self, vocab_size: int) -> None:
        """Add the bytes of all sequences, as a store of many more such ones would take them.

        With a frequency table that is fitted to the sequences themselves they would come out too small; with one that
        is fitted to the other half of a few sequences, too large, as a build has more for its fit. The mean of the
        two is within 5 % of a large store from 2 sequences on (threshold and random-sampling, 262,144 ids).
        """
        manifest = self._manifest(1.0) | {"vocab_size": vocab_size}
        table = fit_table(self.arrays, manifest)
        self.table_bytes = len(table.to_bytes())
        begin = time.monotonic()
        self._count(self.arrays, table, 1 if len(self.arrays) == 1 else 0.5)
        self.encoding_seconds += time.monotonic() - begin
        if len(self.arrays) > 1:
            for half, other in ((self.arrays[::2], self.arrays[1::2]), (self.arrays[1::2], self.arrays[::2])):
                self._count(half, fit_table(other, manifest), 0.5)

    def _manifest(self, teacher_temperature: float) -> dict[str, Any]:
        sampler = self.sampler.to_dict()
        fields = probability_fields(sampler, PROBABILITY_BITS)
        return {"sampler": sampler, "teacher_temperature": teacher_temperature, **fields}

    def _count(self, sequences: list[codec.SequenceArrays], table: codec.FrequencyTable, share: float) -> None:
        for arrays in sequences:
            header = codec.read_header(codec.encode(arrays, table))
            self.token_bytes += share * header.token_bytes
            self.entry_bytes += share * header.entry_bytes
            self.blob_bytes += share * header.total_bytes


class Probe:
    """Stands where a `TargetMaker` wants a sampler, and lets every sampler read each block of logits.

    Args:
        samplers: at least one.
        indexes: index in the corpus of each sequence, in the order in which the `TargetMaker` gets them.
        advance: called with the positions of each block.

    Attributes:
        tallies: one for each sampler.
        seconds: time spent here, the teacher standing still.
    """

    name = "probe"

    def __init__(
        self, samplers: Sequence[AnySampler], indexes: Sequence[int], advance: Callable[[int], None] | None = None
    ) -> None:
        self.tallies = [Tally(sampler) for sampler in samplers]
        self.seconds = 0.0
        self._indexes = indexes
        self._advance = advance
        self._parts: dict[int, list[list[SparseTargets]]] = {}

    def to_dict(self) -> dict[str, Any]:
        """Return the names of what is tried."""
        return {"name": self.name, "samplers": [tally.sampler.to_dict() for tally in self.tallies]}

    def __call__(self, logits: Tensor, *, seed: int = 0, index: int = 0, first_position: int = 0) -> SparseTargets:
        """Sample one block with every sampler; return the targets of the first.

        Raises:
            TeacherError: kind "bad-logits", naming sequence and position.
        """
        begin = _now(logits.device)
        where = self._indexes[index]
        made = []
        for tally in self.tallies:
            start = _now(logits.device)
            try:
                targets = tally.sampler(logits, seed=seed, index=where, first_position=first_position)
            except InvalidInput as error:
                if error.kind != "bad-logits":
                    raise
                raise TeacherError(f"sequence {where}: {error}", kind="bad-logits") from None
            tally.sampling_seconds += _now(logits.device) - start
            made.append(targets)
        of_one_draw = float(total_variance(RandomSampling(1), logits).sum())
        for tally, targets in zip(self.tallies, made, strict=True):
            tally.measure(targets, logits, of_one_draw)
        self._parts.setdefault(index, []).append([targets.to("cpu") for targets in made])
        if self._advance is not None:
            self._advance(len(logits))
        self.seconds += _now(logits.device) - begin
        return made[0]

    def finish(self, index: int, tokens: NDArray[np.int32], temperature: float, vocab_size: int) -> None:
        """Take the targets of a sequence whose blocks are all there."""
        begin = time.monotonic()
        for tally, parts in zip(self.tallies, zip(*self._parts.pop(index), strict=True), strict=True):
            targets = replace(concatenate_targets(parts), teacher_temperature=temperature)
            tally.add(tokens, targets, vocab_size, f"sequence {self._indexes[index]}")
        self.seconds += time.monotonic() - begin


def probe_teacher(
    maker: TargetMaker,
    samplers: Sequence[AnySampler],
    sequences: Sequence[tuple[int, PlannedSequence]],
    advance: Callable[[int], None] | None = None,
) -> tuple[list[Tally], float]:
    """Run the teacher once over some sequences; all samplers read the same logits, block by block.

    A few tokens are run before, as the first ones of a process are slow.

    Args:
        maker: the teacher and how it is run; its own sampler is not used.
        samplers: at least one.
        sequences: index in the corpus, tokens and document starts of each.
        advance: called with the positions of each block.

    Returns:
        Sums for each sampler, and the seconds that the teacher took for all sequences.

    Raises:
        TeacherError: kind "bad-logits", naming sequence and position.
    """
    index, (tokens, starts) = sequences[0]
    _run(maker, Probe(samplers, [index]), [(tokens[:_WARM_UP_TOKENS], starts[:0])])
    probe = Probe(samplers, [index for index, _ in sequences], advance)
    seconds = _run(maker, probe, [sequence for _, sequence in sequences])
    for tally in probe.tallies:
        tally.encode(maker.teacher.logits_width)
    return probe.tallies, seconds


def _run(maker: TargetMaker, probe: Probe, sequences: Sequence[PlannedSequence]) -> float:
    """Return the seconds that passed outside of the probe."""
    device = maker.teacher.device
    begin = _now(device)
    for index, (tokens, _), targets in replace(maker, sampler=probe).targets(enumerate(sequences)):
        probe.finish(index, tokens, targets.teacher_temperature, maker.teacher.logits_width)
    return max(_now(device) - begin - probe.seconds, 0.0)


def _now(device: torch.device) -> float:
    """Return the time, after all that the device was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()
