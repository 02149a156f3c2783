"""`logitstore export`: a store as plain Parquet or Zarr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command(
    epilog="""\b
Examples:
  logitstore export my-store my-lists --format parquet
  logitstore export my-store my-arrays --format zarr-flat
  logitstore export my-store my-rows --format dense --limit-sequences 8
"""
)
@click.argument("store")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--format",
    type=click.Choice(["parquet", "zarr-flat", "dense"]),
    required=True,
    help="parquet: a row a sequence, lists of ids and weights; zarr-flat: sparse rows (CSR); dense: [positions, V].",
)
@click.option("--limit-sequences", type=int, help="Only the first so many sequences.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def command(store: str, out: Path, quiet: bool, **options: Any) -> None:
    """Write what STORE holds to the folder OUT, for readers without logitstore.

    OUT appears when all is written. Columns and arrays are described in docs/export.md.
    """
    from logitstore.progress import Progress
    from logitstore.store import export_store

    with Progress("exporting", None, unit="positions", quiet=quiet) as progress:

        def show(done: int, total: int) -> None:
            progress.set_total(total)
            progress.advance(done - progress.done)

        export_store(store, out, progress=show, **options)
    click.echo(f"{out} is complete.")
