"""`logitstore verify`: read every byte of a store and say what is wrong."""

from __future__ import annotations

import click

from logitstore.cli.output import json_option, print_json


@click.command(
    epilog="""\b
Examples:
  logitstore verify my-store
  logitstore verify my-store --json
"""
)
@click.argument("store")
@json_option
def command(store: str, as_json: bool) -> int:
    """Check STORE: hashes, every checksum, the index, token ids and weights. Nothing is repaired.

    Exits with 0 where it is clean, 1 where something is wrong, 2 where it is no finished store.
    """
    from logitstore.progress import Progress
    from logitstore.store import verify_store

    with Progress("verifying", None, unit="sequences", quiet=as_json) as progress:

        def show(done: int, total: int) -> None:
            progress.set_total(total)
            progress.advance(done - progress.done)

        findings = verify_store(store, progress=show)
    if as_json:
        print_json({"clean": not findings, "findings": [finding.to_dict() for finding in findings]})
    else:
        for finding in findings:
            click.echo(f"{finding.kind}  {finding.where}: {finding.message}")
        click.echo(f"{store} is clean." if not findings else f"{len(findings)} finding(s) in {store}.")
    return 1 if findings else 0
