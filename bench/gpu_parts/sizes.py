"""How large the cases are: on a GPU, and in a dry run that only shows that they run."""

# T positions, V vocabulary, K entries of a position, D hidden width

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Sizes of all parts. Times are medians of `rounds` runs."""

    device: str = "cuda"
    rounds: int = 15
    row_positions: int = 8_192
    vocabularies: tuple[int, ...] = (32_000, 128_256, 262_144)
    entries: tuple[int, ...] = (1, 12, 50)
    configurations: tuple[tuple[int, int], ...] = ((4_096, 8), (8_192, 8), (16_384, 16), (32_768, 32))
    odd_vocabulary: int = 50_257
    linear: tuple[tuple[int, int, int], ...] = ((8_192, 4_096, 128_256), (8_192, 2_048, 128_256))
    chunk_bytes: tuple[int, ...] = (1 << 28, 1 << 29, 1 << 30, 1 << 31)
    build_positions: int = 2_048
    build_vocabularies: tuple[int, ...] = (128_256, 262_144)
    repeats: int = 100
    batch: int = 8
    seq_len: int = 1_024
    student: tuple[int, int, int] = (24, 1_024, 16)  # layers, width, heads: 300M without embeddings
    student_vocabulary: int = 128_256
    steps: int = 20


DRY = Sizes(
    device="cpu",
    rounds=1,
    row_positions=2,
    vocabularies=(512,),
    entries=(1, 3),
    configurations=((1_024, 4),),
    odd_vocabulary=251,
    linear=((6, 8, 64),),
    chunk_bytes=(1 << 10,),
    build_positions=2,
    build_vocabularies=(300,),
    repeats=2,
    batch=2,
    seq_len=8,
    student=(1, 16, 2),
    student_vocabulary=64,
    steps=1,
)
