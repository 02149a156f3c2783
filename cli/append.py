"""`logitstore append`: more data for a store that is there."""

from __future__ import annotations

from typing import Any

import click

from logitstore.cli.teacher_options import BatchSize


@click.command(
    epilog="""\b
Examples:
  logitstore append my-store --data more-corpus/
  logitstore append my-store --data more-corpus/ --resume
  logitstore append my-store --data new.jsonl --teacher ./teacher --device cuda:1
"""
)
@click.argument("store")
@click.option("--data", multiple=True, required=True, help="File (.txt, .jsonl, .parquet), folder or glob; repeatable.")
@click.option("--text-field", help="JSONL field or Parquet column with the text; the store's unless given.")
@click.option("--tokens-field", help="JSONL field or Parquet column with token ids; the store's unless given.")
@click.option("--teacher", help="Where the store's teacher lies here; as the store names it unless given.")
@click.option("--gguf-file", help="GGUF file in the teacher's folder or repository.")
@click.option("--revision", help="Branch, tag or commit of the teacher on the hub.")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that comes with the teacher.")
@click.option("--limit-tokens", type=click.IntRange(min=1), help="Append the first so many tokens only.")
@click.option("--batch-size", type=BatchSize(), default="auto", show_default=True, help="Sequences run at once.")
@click.option(
    "--device", default="auto", show_default=True, help="Where the teacher runs: auto, cpu, cuda, cuda:1, ..."
)
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes here that run the teacher."
)
@click.option("--resume", is_flag=True, help="Go on with an unfinished append; a finished one is left as it is.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def command(store: str, data: tuple[str, ...], **options: Any) -> None:
    """Run STORE's teacher over more data, and add what it says to STORE, with all of its settings.

    What is new is there all at once, when it is complete. Sequence indices go on, so no random number is used twice.
    """
    from logitstore.build.append import append_store

    append_store(store, data=list(data), **options)
    click.echo(f"{store} is complete. `logitstore stats {store}` says what is in it.")
