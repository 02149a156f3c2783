"""What a store would cost and how noisy it would be, sampler by sampler, told by a part of the corpus."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from logitstore.build.corpus_sample import CorpusSample, sample_corpus
from logitstore.build.documents import find_data_files
from logitstore.build.options import BuildOptions, Tokenizer
from logitstore.build.probe import Tally, probe_teacher
from logitstore.build.sampling import TargetMaker
from logitstore.build.teacher_source import inspect_source, load_source, masked_columns, packing_of
from logitstore.errors import InvalidInput
from logitstore.progress import Progress
from logitstore.samplers import AnySampler, RandomSampling, Threshold, TopK, TopP
from logitstore.teachers import Teacher

#: what every variance is compared with: the published method at its published budget
REFERENCE = RandomSampling(50)
SAMPLERS: tuple[AnySampler, ...] = (
    *(Threshold(draws) for draws in (8, 12, 16, 20, 25, 33, 50)),
    *(RandomSampling(draws) for draws in (25, 50, 100)),
    *(TopK(k) for k in (25, 50, 100)),
    TopP(0.95, 100),
)
#: bytes of a sequence beside its blob: its rows in the two indexes, measured on 64 to 512 sequences
_INDEX_BYTES = 75


@dataclass(frozen=True)
class SamplerEstimate:
    """What one sampler would make of the corpus.

    Attributes:
        sampler: its `to_dict`.
        entries_per_position: on average.
        bytes_per_position: on disk, of the whole store.
        bytes_per_position_split: the same by "entries", "tokens" and "index" (everything else), as `stats` has it.
        total_bytes: of the whole corpus.
        hours: of the whole corpus, teacher and sampler; or of encoding, which runs beside them, where that is slower.
        sampler_seconds_per_position: part of it.
        kept_mass: probability that a position's entries cover, on average, for a biased sampler; else None.
        relative_variance: sum of the variances of a position's weights, over that of random-sampling with 50 draws;
            None for a biased sampler, and where the teacher is certain everywhere.
    """

    sampler: dict[str, Any]
    entries_per_position: float
    bytes_per_position: float
    bytes_per_position_split: dict[str, float]
    total_bytes: int
    hours: float
    sampler_seconds_per_position: float
    kept_mass: float | None
    relative_variance: float | None


@dataclass(frozen=True)
class Estimate:
    """What samplers would make of a corpus.

    Attributes:
        probed_positions: positions that the teacher read for this.
        probed_sequences: sequences that they make up, evenly spread over the corpus.
        corpus_tokens: tokens of the corpus.
        corpus_sequences: sequences of the corpus.
        counted: whether these two are counts of a corpus tokenised whole; else they are extrapolated by bytes.
        data_bytes: bytes of the corpus' text or token ids, where extrapolated; else None.
        tokenised_bytes: how many of them were tokenised.
        teacher_positions_per_second: speed of the teacher, without any sampler.
        teacher_hours: of the whole corpus, without any sampler.
        samplers: one a sampler and budget.
        recommended: the sampler that has the variance of random-sampling with 50 draws in the fewest bytes.
        recommendation: the same as a sentence.
    """

    probed_positions: int
    probed_sequences: int
    corpus_tokens: int
    corpus_sequences: int
    counted: bool
    data_bytes: int | None
    tokenised_bytes: int | None
    teacher_positions_per_second: float
    teacher_hours: float
    samplers: list[SamplerEstimate]
    recommended: dict[str, Any]
    recommendation: str

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return asdict(self)


def estimate(
    *,
    teacher: str | Path | Teacher,
    data: Sequence[str | os.PathLike[str]],
    positions: int = 2000,
    tokenizer: Tokenizer | None = None,
    gguf_file: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    text_field: str = "text",
    tokens_field: str | None = None,
    seq_len: int = 1024,
    pack: bool = True,
    bos: bool = True,
    teacher_temperature: float = 1.0,
    limit_tokens: int | None = None,
    batch_size: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    seed: int = 0,
    quiet: bool = False,
) -> Estimate:
    """Probe the teacher on a sample of the data, and tell what each sampler would cost and how noisy it would be.

    The teacher runs once over whole sequences, packed as `build` packs them and evenly spread over the corpus; every
    sampler of `SAMPLERS` reads the same logits, and its targets are encoded as a store holds them. Nothing stays on
    disk. A corpus of more than 64 MiB of files is read whole, but only an even sample of its text is tokenised, and
    its tokens are extrapolated by bytes of text. There a limit beyond 16 M tokens bounds the totals, but the sample
    comes from all of the data.

    Args:
        positions: how many to probe, about; whole sequences, so at least one.
        teacher: see `build`, for this and for all other arguments.
        data: see `build`.
        tokenizer: see `build`.
        gguf_file: see `build`.
        revision: see `build`.
        trust_remote_code: see `build`.
        text_field: see `build`.
        tokens_field: see `build`.
        seq_len: see `build`.
        pack: see `build`.
        bos: see `build`.
        teacher_temperature: see `build`.
        limit_tokens: see `build`.
        batch_size: see `build`.
        dtype: see `build`.
        device: see `build`.
        seed: see `build`.
        quiet: no progress on stderr.

    Raises:
        InvalidInput: an option or a data file cannot be used.
        TeacherError: the teacher cannot be loaded, or its logits are NaN or infinite.
        StoreError: kind "disk-full", the temporary folder has no room for the tokens.
    """
    options = BuildOptions(
        teacher=teacher,
        data=data,
        tokenizer=tokenizer,
        gguf_file=gguf_file,
        revision=revision,
        trust_remote_code=trust_remote_code,
        text_field=text_field,
        tokens_field=tokens_field,
        seq_len=seq_len,
        pack=pack,
        bos=bos,
        teacher_temperature=teacher_temperature,
        limit_tokens=limit_tokens,
        batch_size=batch_size,
        dtype=dtype,
        device=device,
        seed=seed,
        quiet=quiet,
    )
    return _run_estimate(options, positions)


def _run_estimate(options: BuildOptions, positions: int) -> Estimate:
    options.check()
    if positions < 1:
        raise InvalidInput(f"positions is {positions}; at least 1 was wanted.")
    files = find_data_files(options.data)
    info, tokenizer, vocab_size = inspect_source(options)
    encode = None if tokenizer is None else tokenizer.encode
    with tempfile.TemporaryDirectory(prefix="logitstore-estimate-") as folder:
        corpus = sample_corpus(Path(folder), files, packing_of(options, tokenizer), encode, vocab_size, options)
        sequences = corpus.spread(positions)
    teacher = load_source(options, info, corpus.longest)
    maker = TargetMaker(
        teacher,
        REFERENCE,
        options.seed,
        options.teacher_temperature,
        masked_columns(teacher, None if tokenizer is None else tokenizer.size),
        options.batch_size,
    )
    samplers = [sampler for sampler in SAMPLERS if not isinstance(sampler, TopK) or sampler.k <= teacher.logits_width]
    probed = sum(len(tokens) for _, (tokens, _) in sequences)
    with Progress("probing", probed, unit="positions", quiet=options.quiet) as progress:
        tallies, seconds = probe_teacher(maker, samplers, sequences, progress.advance)
    return _estimate(corpus, tallies, seconds, len(sequences))


def _estimate(corpus: CorpusSample, tallies: list[Tally], teacher_seconds: float, num_sequences: int) -> Estimate:
    positions = tallies[0].positions
    reference = next(tally.variance for tally in tallies if tally.sampler == REFERENCE)
    per_position = teacher_seconds / positions
    rows = [_row(corpus, tally, per_position, reference) for tally in tallies]
    recommended, sentence = _recommend(tallies, rows)
    return Estimate(
        probed_positions=positions,
        probed_sequences=num_sequences,
        corpus_tokens=corpus.tokens,
        corpus_sequences=corpus.sequences,
        counted=corpus.data_bytes is None,
        data_bytes=corpus.data_bytes,
        tokenised_bytes=corpus.tokenised_bytes,
        teacher_positions_per_second=1 / max(per_position, 1e-9),
        teacher_hours=per_position * corpus.tokens / 3600,
        samplers=rows,
        recommended=recommended.to_dict(),
        recommendation=sentence,
    )


def _row(corpus: CorpusSample, tally: Tally, teacher_seconds: float, reference: float) -> SamplerEstimate:
    """Return a sampler's estimate; `teacher_seconds` are those of one position, `reference` is a sum of variances."""
    positions = tally.positions
    index_bytes = (_INDEX_BYTES * corpus.sequences + tally.table_bytes) / corpus.tokens
    split = {
        "entries": tally.entry_bytes / positions,
        "tokens": tally.token_bytes / positions,
        "index": (tally.blob_bytes - tally.entry_bytes - tally.token_bytes) / positions + index_bytes,
    }
    sampling, encoding = tally.sampling_seconds / positions, tally.encoding_seconds / positions
    has_variance = tally.sampler.unbiased and reference > 0
    return SamplerEstimate(
        sampler=tally.sampler.to_dict(),
        entries_per_position=tally.entries / positions,
        bytes_per_position=sum(split.values()),
        bytes_per_position_split=split,
        total_bytes=round(sum(split.values()) * corpus.tokens),
        hours=max(teacher_seconds + sampling, encoding) * corpus.tokens / 3600,
        sampler_seconds_per_position=sampling,
        kept_mass=None if tally.sampler.unbiased else tally.kept_mass / positions,
        relative_variance=tally.variance / reference if has_variance else None,
    )


def _recommend(tallies: list[Tally], rows: list[SamplerEstimate]) -> tuple[AnySampler, str]:
    """Return the sampler with the variance of the reference in the fewest bytes, and a sentence that says so."""
    reference = next(row for tally, row in zip(tallies, rows, strict=True) if tally.sampler == REFERENCE)
    curve = [
        (tally.sampler.draws, row.relative_variance, row.bytes_per_position)
        for tally, row in zip(tallies, rows, strict=True)
        if isinstance(tally.sampler, Threshold) and row.relative_variance is not None
    ]
    if not curve:
        least = next(tally.sampler for tally in tallies if isinstance(tally.sampler, Threshold))
        return least, (
            f"The teacher is certain of every probed token, so every sampler is exact: take threshold with "
            f"{least.draws} draws (--sampler threshold --draws {least.draws})."
        )
    found = _equal_variance(curve)
    published = reference.bytes_per_position
    if found is None or found[1] >= published:
        return REFERENCE, (
            f"Take random-sampling with {REFERENCE.draws} draws (--sampler random-sampling --draws {REFERENCE.draws}), "
            f"{published:.1f} bytes a position: no threshold budget has its gradient variance in fewer."
        )
    draws, size = found
    return Threshold(draws), (
        f"Take threshold with {draws} draws (--sampler threshold --draws {draws}): it has the gradient variance of "
        f"random-sampling with {REFERENCE.draws} draws in about {size:.1f} instead of {published:.1f} bytes a position, "
        f"which saves {1 - size / published:.0%} of the store."
    )


def _equal_variance(curve: list[tuple[int, float, float]]) -> tuple[int, float] | None:
    """Return the fewest draws whose relative variance is at most 1, and their bytes a position, by interpolation.

    Args:
        curve: (draws, relative variance, bytes a position), draws ascending.
    """
    draws, variance, size = curve[0]
    if variance <= 1:
        return draws, size
    for (low, above, small), (high, below, large) in pairwise(curve):
        if below <= 1:
            # variance is close to a power of the draws; rounded up, so that it is no more than wanted
            share = math.log(above) / math.log(above / max(below, 1e-9))
            wanted = min(math.ceil(low * (high / low) ** share), high)
            return wanted, small + (large - small) * math.log(wanted / low) / math.log(high / low)
    return None
