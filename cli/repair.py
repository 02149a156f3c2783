"""`logitstore repair`: drop what is damaged, so that it can be made again."""

from __future__ import annotations

import click

from logitstore.cli.output import json_option, print_json


@click.command(
    epilog="""\b
Examples:
  logitstore repair my-store --dry-run
  logitstore repair my-store
  logitstore repair my-store --json
"""
)
@click.argument("store")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@json_option
def command(store: str, dry_run: bool, as_json: bool) -> None:
    """Drop the damaged and missing shards of STORE, and files that do not belong there.

    The store is unfinished then, and `logitstore build STORE ... --resume` makes just these shards again, to the same
    bytes; for what was appended `logitstore append` does. Nothing is dropped of a store that `logitstore verify` calls
    clean. No other process may work on STORE meanwhile. A damaged manifest or frequency table cannot be repaired, as
    everything else depends on it.
    """
    from logitstore.store.repair import repair_store

    done = repair_store(store, dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, **done.to_dict()})
        return
    would = "would be " if dry_run else ""
    for unit in done.units:
        of = f" of generation {unit.generation}" if unit.generation else ""
        click.echo(f"unit {unit.unit}{of} (sequences from {unit.first_sequence} on) {would}dropped: {unit.reason}")
    for name, reason in done.removed.items():
        click.echo(f"{name} {would}removed: {reason}")
    for name in done.restored:
        click.echo(f"{name} {would}written anew")
    if done.is_sealed:
        left = "has nothing to repair" if not (done.removed or done.restored) else f"{would or 'is '}complete"
        click.echo(f"{store} {left}.")
    else:
        click.echo(f"{store} {would or 'is '}unfinished. Go on by {done.next_step}.")
