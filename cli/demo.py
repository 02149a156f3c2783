"""`logitstore demo`: the whole path on a real teacher and a real text, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command(
    epilog="""\b
Examples:
  logitstore demo
  logitstore demo --out my-demo --steps 100
  logitstore demo --teacher ./my-teacher --data my-text.txt
"""
)
@click.option(
    "--teacher", help="Hub id or local folder; by default Gemma 3 270M of logitstore[demo] (Gemma's terms apply)."
)
@click.option("--gguf-file", help="GGUF file in the teacher's folder.")
@click.option(
    "--data", multiple=True, help="Text file, folder or glob, repeatable; by default the text that comes along."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default="demo-out", show_default=True, help="Folder for results."
)
@click.option("--positions", default=9_216, show_default=True, help="Tokens of the text to store.")
@click.option("--seq-len", default=256, show_default=True, help="Tokens of a sequence.")
@click.option("--draws", default=50, show_default=True, help="Draws of a position.")
@click.option("--steps", default=200, show_default=True, help="Training steps of each student.")
@click.option("--seed", default=0, show_default=True, help="Of draws, batches and students.")
@click.option("--device", default="auto", show_default=True, help="Where the teacher runs.")
def command(data: tuple[str, ...], **options: Any) -> None:
    """Build, verify, look into, and train from a store of a real teacher.

    Runs Gemma 3 270M over a public-domain text, stores its sparse targets, and trains the same small student twice:
    with cross-entropy and with sparse KD. Prints and plots held-out loss and KL to the teacher.
    """
    from logitstore.demo import DemoOptions, run_demo

    run_demo(DemoOptions(data=list(data) or None, **options), echo=click.echo)
