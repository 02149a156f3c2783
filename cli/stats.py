"""`logitstore stats`: what a store holds and what it costs."""

from __future__ import annotations

import click

from logitstore.cli.output import json_option, print_fields, print_json


@click.command(
    epilog="""\b
Examples:
  logitstore stats my-store
  logitstore stats my-store --json
"""
)
@click.argument("store")
@json_option
def command(store: str, as_json: bool) -> None:
    """Print counts and sizes of STORE.

    Positions are places with a target. Bytes a position count all files of the store; their split is the share of
    entries, tokens and the teacher's statistics in the blobs, and "index" for everything else. Where statistics are
    stored, their means over the store are shown, in a large one over four million positions of it.
    """
    from logitstore.store import store_statistics

    statistics = store_statistics(store)
    if as_json:
        print_json(statistics)
    else:
        print_fields(statistics)
