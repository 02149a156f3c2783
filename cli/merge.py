"""`logitstore merge`: several stores as one."""

from __future__ import annotations

import click


@click.command(
    epilog="""\b
Examples:
  logitstore merge all --store books-store --store code-store
  logitstore merge all --store books-store --store code-store --resume
"""
)
@click.argument("out")
@click.option("--store", "stores", multiple=True, required=True, help="A store to merge; repeatable, in order.")
@click.option("--resume", is_flag=True, help="Go on with an unfinished OUT; a finished one is left as it is.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def command(out: str, stores: tuple[str, ...], resume: bool, quiet: bool) -> None:
    """Write the sequences of several stores, in order, to OUT.

    The stores have the same teacher, tokenizer, sampler and packing; their data and seeds may differ.
    """
    from logitstore.build.merge import merge_stores

    merge_stores(list(stores), out, resume=resume, quiet=quiet)
    click.echo(f"{out} is complete. `logitstore stats {out}` says what is in it.")
