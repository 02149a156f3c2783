"""`logitstore estimate`: what each sampler would cost on a corpus, and how noisy it would be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from logitstore.cli.output import json_option, print_json
from logitstore.cli.teacher_options import run_options, source_options

if TYPE_CHECKING:
    from logitstore.build.estimate import Estimate, SamplerEstimate

_HEADINGS = ("sampler", "budget", "entries", "bytes", "of entries", "of tokens", "size", "time", "kept", "variance")
_PER_POSITION = ("/position",) * 4
_TEXT_COLUMNS = 2
#: units of a column, the largest first
_SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_TIMES = ((1.0, "hours"), (1 / 60, "minutes"), (1 / 3600, "seconds"))


@click.command(
    epilog="""\b
Examples:
  logitstore estimate --teacher google/gemma-3-270m --data corpus/
  logitstore estimate --teacher ./teacher --data 'books/*.txt' --seq-len 2048 --positions 20000
  logitstore estimate --teacher ./gguf --gguf-file model.gguf --data a.jsonl --json
"""
)
@source_options(required=True)
@click.option(
    "--positions",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="Positions to probe, about: whole sequences.",
)
@run_options
@json_option
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def command(as_json: bool, **options: Any) -> None:
    """Probe the teacher on a sample of the data, and print what each sampler would make of all of it.

    The teacher reads whole sequences, packed as `build` packs them and evenly spread over the data: these are cut
    into runs of equal length, and the middle sequence of each run is taken. More than 64 MiB of data are read but not
    tokenised whole; their tokens are then extrapolated by bytes of text, and the output says so. Nothing stays on
    disk.

    Bytes are those of a store, its entries' and its tokens' share after them. Time is the teacher's and the
    sampler's. Kept is the probability that the entries of a biased sampler cover. Variance is the variance of an
    unbiased sampler's gradients, over that of random-sampling with 50 draws.
    """
    from logitstore.build.estimate import estimate

    found = estimate(**{**options, "data": list(options["data"])})
    if as_json:
        print_json(found.to_dict())
    else:
        _print_sample(found)
        _print_table(found.samplers)
        click.echo(f"\n{found.recommendation}")


def _print_sample(found: Estimate) -> None:
    one_in = found.corpus_sequences / found.probed_sequences
    click.echo(
        f"Probed {found.probed_positions:,} positions in {found.probed_sequences:,} sequences, evenly spread: one in "
        f"{one_in:,.0f}. The teacher reads {found.teacher_positions_per_second:,.0f} positions/s."
    )
    if found.data_bytes is None or found.tokenised_bytes is None:
        how = "counted: all of the data was tokenised"
    else:
        how = f"extrapolated by bytes: {found.tokenised_bytes:,} of {found.data_bytes:,} were tokenised, evenly spread"
    click.echo(f"The corpus has {found.corpus_tokens:,} tokens in {found.corpus_sequences:,} sequences ({how}).\n")


def _print_table(rows: list[SamplerEstimate]) -> None:
    size_unit, size_name = _unit(max(row.total_bytes for row in rows), _SIZES)
    time_unit, time_name = _unit(max(row.hours for row in rows), _TIMES)
    lines = [
        _HEADINGS,
        ("", "", *_PER_POSITION, size_name, time_name, "mass", "relative"),
        *(_cells(row, size_unit, time_unit) for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.ljust(width) if column < _TEXT_COLUMNS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def _cells(row: SamplerEstimate, size_unit: float, time_unit: float) -> tuple[str, ...]:
    split = row.bytes_per_position_split
    return (
        row.sampler["name"],
        _budget(row.sampler),
        f"{row.entries_per_position:.1f}",
        f"{row.bytes_per_position:.2f}",
        f"{split['entries']:.2f}",
        f"{split['tokens']:.2f}",
        f"{row.total_bytes / size_unit:,.2f}",
        f"{row.hours / time_unit:,.2f}",
        "-" if row.kept_mass is None else f"{row.kept_mass:.3f}",
        "-" if row.relative_variance is None else f"{row.relative_variance:.2f}",
    )


def _budget(sampler: dict[str, Any]) -> str:
    if "draws" in sampler:
        return f"n = {sampler['draws']}"
    if sampler["name"] == "top-k":
        return f"k = {sampler['k']}"
    return f"p = {sampler['p']:g}, max-k = {sampler['max_k']}"


def _unit(largest: float, units: tuple[tuple[float, str], ...]) -> tuple[float, str]:
    """Return the unit, one for a whole column, in which the largest value is at least 1."""
    return next((unit for unit in units if largest >= unit[0]), units[-1])
