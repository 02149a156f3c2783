"""`logitstore thin`: a smaller store of one that is there, without the teacher."""

from __future__ import annotations

from typing import Any

import click


@click.command(
    epilog="""\b
Examples:
  logitstore thin my-store my-thinner-store --draws 10
  logitstore thin my-store my-thinner-store --draws 10 --resume
"""
)
@click.argument("store")
@click.argument("out")
@click.option("--draws", type=int, required=True, help="Draws of a position in OUT; fewer than STORE has.")
@click.option("--seed", type=int, help="Key of the thinning; the seed that STORE was built with, unless given.")
@click.option("--resume", is_flag=True, help="Go on with an unfinished OUT; a finished one is left as it is.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def command(store: str, out: str, **options: Any) -> None:
    """Write a store with fewer draws than STORE to OUT, as unbiased as it, without the teacher.

    STORE holds threshold or random-sampling targets (with --proposal-power 1). Tokens, document starts and the
    teacher's statistics are the same in OUT. A store may be thinned any number of times.
    """
    from logitstore.build.thin import thin_store

    thin_store(store, out, **options)
    click.echo(f"{out} is complete. `logitstore stats {out}` says what is in it.")
