"""`logitstore build`: run a teacher over a corpus and store its sparse targets."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from logitstore.cli.statistics_option import StatisticNames
from logitstore.cli.teacher_options import run_options, source_options


@click.command(
    epilog="""\b
Examples:
  logitstore build my-store --teacher google/gemma-3-270m --data corpus/
  logitstore build my-store --teacher ./teacher --data 'books/*.txt' --seq-len 2048 --resume
  logitstore build my-store --teacher ./teacher --data tokens.parquet --tokens-field input_ids
  logitstore build my-store --teacher ./teacher --data corpus/ --workers 4
  logitstore build my-store --join
  logitstore build my-store --teacher ./gguf --gguf-file model.gguf --data a.jsonl --sampler top-k --k 100
"""
)
@click.argument("store")
@source_options(required=False)
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
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes here that run the teacher."
)
@click.option("--join", is_flag=True, help="Help with a build that was begun elsewhere; its settings are the store's.")
@click.option("--resume", is_flag=True, help="Go on with an unfinished store; a finished one is left as it is.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.pass_context
def command(context: click.Context, /, store: str, join: bool, **options: Any) -> None:
    """Run the teacher over the data once, and write its sparse targets to STORE.

    The data is tokenised and packed first, then the teacher runs unit by unit. Any stop, Ctrl-C or a full disk
    included, loses the unit at work and no more: the same command with --resume goes on, and reads the data only to
    compare its hashes. Nobody can open a store that is not finished.

    Several processes may work on one store: --workers starts them here, and --join adds one anywhere that the store's
    folder or bucket can be reached. With --join no data is read, and the teacher is the one that the store names
    unless --teacher says where it lies here.
    """
    if join:
        _join(context, store, options)
    else:
        for name in ("teacher", "data"):
            if not options[name]:
                raise click.UsageError(f"Missing option '--{name}'.", context)
        _build(store, options)
    click.echo(f"{store} is complete. `logitstore stats {store}` says what is in it.")


def _build(store: str, options: dict[str, Any]) -> None:
    from logitstore import build

    sampler = _sampler(*(options.pop(name) for name in ("sampler", "draws", "proposal_power", "k", "p", "max_k")))
    build(store, sampler=sampler, **{**options, "data": list(options["data"])})


#: what a process that joins a build may choose for itself
_OWN_OPTIONS = ("teacher", "gguf_file", "revision", "trust_remote_code", "batch_size", "dtype", "device", "quiet")


def _join(context: click.Context, store: str, options: dict[str, Any]) -> None:
    from logitstore.build.join import join_build

    given = [name for name in options if context.get_parameter_source(name) == ParameterSource.COMMANDLINE]
    foreign = [f"--{name.replace('_', '-')}" for name in given if name not in _OWN_OPTIONS]
    if foreign:
        raise click.UsageError(f"--join takes its settings from the store; leave {', '.join(foreign)} out.", context)
    join_build(store, **{name: options[name] for name in _OWN_OPTIONS})


def _sampler(name: str, draws: int | None, proposal_power: float, k: int, p: float, max_k: int | None) -> Any:
    from logitstore.samplers import RandomSampling, Threshold, TopK, TopP

    if name == "top-k":
        return TopK(k)
    if name == "top-p":
        return TopP(p, max_k)
    if name == "random-sampling":
        return RandomSampling(50 if draws is None else draws, proposal_power)
    return Threshold(20 if draws is None else draws)
