"""`logitstore build`: run a teacher over a corpus and store its sparse targets."""

from __future__ import annotations

from typing import Any

import click

from logitstore.cli.statistics_option import StatisticNames
from logitstore.cli.teacher_options import run_options, source_options


@click.command(
    epilog="""\b
Examples:
  logitstore build my-store --teacher google/gemma-3-270m --data corpus/
  logitstore build my-store --teacher ./teacher --data 'books/*.txt' --seq-len 2048 --resume
  logitstore build my-store --teacher ./teacher --data tokens.parquet --tokens-field input_ids
  logitstore build my-store --teacher ./gguf --gguf-file model.gguf --data a.jsonl --sampler top-k --k 100
"""
)
@click.argument("store")
@source_options
@click.option(
    "--sampler",
    type=click.Choice(["threshold", "random-sampling", "top-k", "top-p"]),
    default="threshold",
    show_default=True,
    help="What is kept of each distribution; threshold and random-sampling are unbiased, top-k and top-p are not.",
)
@click.option("--draws", type=int, help="Draws of a position; 20 for threshold, 50 for random-sampling, unless given.")
@click.option("--proposal-power", default=1.0, show_default=True, help="Draw from p to this power (random-sampling).")
@click.option("--k", default=50, show_default=True, help="Entries of a position (top-k).")
@click.option("--p", default=0.95, show_default=True, help="Mass that a position's entries reach together (top-p).")
@click.option("--max-k", type=int, help="Never keep more entries of a position than this (top-p).")
@click.option(
    "--probability-bits",
    type=click.IntRange(8, 16),
    default=8,
    show_default=True,
    help="Bits of a stored probability (top-k, top-p); the other samplers' weights are stored exactly.",
)
@click.option(
    "--statistics",
    type=StatisticNames(),
    default="none",
    show_default=True,
    help="Store the teacher's statistics of each position: entropy,label-probability,top1-probability, or none.",
)
@run_options
@click.option("--resume", is_flag=True, help="Go on with an unfinished store; a finished one is left as it is.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def command(store: str, **options: Any) -> None:
    """Run the teacher over the data once, and write its sparse targets to STORE.

    The data is tokenised and packed first, then the teacher runs unit by unit. Any stop, Ctrl-C or a full disk
    included, loses the unit at work and no more: the same command with --resume goes on. Nobody can open a store that
    is not finished.
    """
    from logitstore import build

    sampler = _sampler(*(options.pop(name) for name in ("sampler", "draws", "proposal_power", "k", "p", "max_k")))
    build(store, sampler=sampler, **{**options, "data": list(options["data"])})
    click.echo(f"{store} is complete. `logitstore stats {store}` says what is in it.")


def _sampler(name: str, draws: int | None, proposal_power: float, k: int, p: float, max_k: int | None) -> Any:
    from logitstore.samplers import RandomSampling, Threshold, TopK, TopP

    if name == "top-k":
        return TopK(k)
    if name == "top-p":
        return TopP(p, max_k)
    if name == "random-sampling":
        return RandomSampling(50 if draws is None else draws, proposal_power)
    return Threshold(20 if draws is None else draws)
