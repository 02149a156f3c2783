"""`logitstore build`: run a teacher over a corpus and store its sparse targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


class BatchSize(click.ParamType[int | None]):
    name = "auto|B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        return None if value in ("auto", None) else click.IntRange(min=1).convert(value, param, ctx)


@click.command(
    epilog="""\b
Examples:
  logitstore build my-store --teacher google/gemma-3-270m --data corpus/
  logitstore build my-store --teacher ./teacher --data 'books/*.txt' --seq-len 2048 --resume
  logitstore build my-store --teacher ./teacher --data tokens.parquet --tokens-field input_ids
  logitstore build my-store --teacher ./gguf --gguf-file model.gguf --data a.jsonl --sampler top-k --k 100
"""
)
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--teacher", required=True, help="Causal language model: hub id or local folder (safetensors or GGUF).")
@click.option("--gguf-file", help="GGUF file in the teacher's folder or repository.")
@click.option("--revision", help="Branch, tag or commit of the teacher on the hub.")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that comes with the teacher.")
@click.option("--data", multiple=True, required=True, help="File (.txt, .jsonl, .parquet), folder or glob; repeatable.")
@click.option("--text-field", default="text", show_default=True, help="JSONL field or Parquet column with the text.")
@click.option("--tokens-field", help="JSONL field or Parquet column with token ids, instead of text.")
@click.option("--seq-len", default=1024, show_default=True, help="Tokens of a sequence, BOS included.")
@click.option("--pack/--no-pack", default=True, show_default=True, help="Join documents into full sequences.")
@click.option("--bos/--no-bos", default=True, show_default=True, help="Start each sequence with the tokenizer's BOS.")
@click.option(
    "--sampler",
    type=click.Choice(["random-sampling", "top-k"]),
    default="random-sampling",
    show_default=True,
    help="What is kept of each distribution: random-sampling is unbiased, top-k is biased.",
)
@click.option("--draws", default=50, show_default=True, help="Draws of a position (random-sampling).")
@click.option("--proposal-power", default=1.0, show_default=True, help="Draw from p to this power (random-sampling).")
@click.option("--k", default=50, show_default=True, help="Entries of a position (top-k).")
@click.option(
    "--teacher-temperature", default=1.0, show_default=True, help="Divide the logits by this before sampling."
)
@click.option("--limit-tokens", type=click.IntRange(min=1), help="Store the first so many tokens only.")
@click.option("--batch-size", type=BatchSize(), default="auto", show_default=True, help="Sequences run at once.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="The teacher's dtype; auto is float32 on a CPU and the checkpoint's own on a GPU.",
)
@click.option(
    "--device", default="auto", show_default=True, help="Where the teacher runs: auto, cpu, cuda, cuda:1, ..."
)
@click.option("--seed", default=0, show_default=True, help="Key of the sampling.")
@click.option("--resume", is_flag=True, help="Go on with an unfinished store; a finished one is left as it is.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def command(store: Path, sampler: str, draws: int, proposal_power: float, k: int, **options: Any) -> None:
    """Run the teacher over the data once, and write its sparse targets to STORE.

    The data is tokenised and packed first, then the teacher runs unit by unit. Any stop, Ctrl-C or a full disk
    included, loses the unit at work and no more: the same command with --resume goes on. Nobody can open a store that
    is not finished.
    """
    from logitstore import build
    from logitstore.samplers import RandomSampling, TopK

    chosen = TopK(k) if sampler == "top-k" else RandomSampling(draws, proposal_power)
    build(store, sampler=chosen, **{**options, "data": list(options["data"])})
    click.echo(f"{store} is complete. `logitstore stats {store}` says what is in it.")
