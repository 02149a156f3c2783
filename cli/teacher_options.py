"""Options that several commands share: which teacher runs over which data, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


class BatchSize(click.ParamType[int | None]):
    """A number of sequences, or "auto", which is None."""

    name = "auto|B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        return None if value in ("auto", None) else click.IntRange(min=1).convert(value, param, ctx)


_TEACHER = "Causal language model: hub id or local folder (safetensors or GGUF)."
_DATA = "File (.txt, .jsonl, .parquet), folder or glob; repeatable."
_SOURCE = (
    click.option("--gguf-file", help="GGUF file in the teacher's folder or repository."),
    click.option("--revision", help="Branch, tag or commit of the teacher on the hub."),
    click.option("--trust-remote-code", is_flag=True, help="Run Python code that comes with the teacher."),
    click.option(
        "--text-field", default="text", show_default=True, help="JSONL field or Parquet column with the text."
    ),
    click.option("--tokens-field", help="JSONL field or Parquet column with token ids, instead of text."),
    click.option("--seq-len", default=1024, show_default=True, help="Tokens of a sequence, BOS included."),
    click.option("--pack/--no-pack", default=True, show_default=True, help="Join documents into full sequences."),
    click.option(
        "--bos/--no-bos", default=True, show_default=True, help="Start each sequence with the tokenizer's BOS."
    ),
)
_RUN = (
    click.option(
        "--teacher-temperature", default=1.0, show_default=True, help="Divide the logits by this before sampling."
    ),
    click.option("--limit-tokens", type=click.IntRange(min=1), help="Take the first so many tokens only."),
    click.option("--batch-size", type=BatchSize(), default="auto", show_default=True, help="Sequences run at once."),
    click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        show_default=True,
        help="The teacher's dtype; auto is float32 on a CPU and the checkpoint's own on a GPU.",
    ),
    click.option(
        "--device", default="auto", show_default=True, help="Where the teacher runs: auto, cpu, cuda, cuda:1, ..."
    ),
    click.option("--seed", default=0, show_default=True, help="Key of the sampling."),
)


def source_options(*, required: bool) -> Callable[[_Command], _Command]:
    """Add the options that say which teacher reads which data, and how documents become sequences."""
    teacher = click.option("--teacher", required=required, help=_TEACHER)
    data = click.option("--data", multiple=True, required=required, help=_DATA)
    return lambda command: _with(command, (teacher, data, *_SOURCE))


def run_options(command: _Command) -> _Command:
    """Add the options that say how the teacher runs."""
    return _with(command, _RUN)


def _with(command: _Command, options: tuple[Callable[[_Command], _Command], ...]) -> _Command:
    # decorators apply from the last to the first
    for option in reversed(options):
        command = option(command)
    return command
