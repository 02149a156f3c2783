"""`logitstore verify`: read every byte of a store and say what is wrong, and run its teacher again on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from logitstore.cli.output import json_option, print_json
from logitstore.cli.teacher_options import BatchSize

if TYPE_CHECKING:
    from logitstore.build.rescore_report import Rescore
    from logitstore.store import Finding


@click.command(
    epilog="""\b
Examples:
  logitstore verify my-store
  logitstore verify my-store --json
  logitstore verify my-store --rescore 0.01
  logitstore verify my-store --rescore 0.01 --teacher ./gguf --gguf-file model.gguf --device cpu
"""
)
@click.argument("store")
@click.option(
    "--rescore",
    "fraction",
    type=click.FloatRange(0, 1, min_open=True),
    help="Run the teacher again over this share of the sequences, at least one.",
)
@click.option("--teacher", help="The teacher to run again; by default the one that the manifest names.")
@click.option("--gguf-file", help="GGUF file in the teacher's folder or repository.")
@click.option("--revision", help="Branch, tag or commit of the teacher on the hub.")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that comes with the teacher.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="The teacher's dtype; auto is the one that the store was made with.",
)
@click.option(
    "--device", default="auto", show_default=True, help="Where the teacher runs: auto, cpu, cuda, cuda:1, ..."
)
@click.option("--batch-size", type=BatchSize(), default="auto", show_default=True, help="Sequences run at once.")
@click.option("--seed", default=0, show_default=True, help="Chooses the sequences that are run again.")
@json_option
def command(store: str, fraction: float | None, as_json: bool, **teacher: Any) -> int:
    """Check STORE: hashes, every checksum, the index, token ids and weights. Nothing is repaired.

    With --rescore the teacher runs again over some sequences, and what it says is compared with what is stored:
    another teacher, another tokenizer, or targets that are off by one position come out. A damaged store is not
    scored.

    Exits with 0 where it is clean, 1 where something is wrong, 2 where it is no finished store.
    """
    from logitstore.errors import InvalidInput
    from logitstore.progress import Progress
    from logitstore.store import verify_store

    if fraction is None and (teacher["teacher"] or teacher["gguf_file"] or teacher["revision"]):
        raise InvalidInput("a teacher was named, but runs only with --rescore; say which share of the sequences.")
    with Progress("verifying", None, unit="sequences", quiet=as_json) as progress:

        def show(done: int, total: int) -> None:
            progress.set_total(total)
            progress.advance(done - progress.done)

        findings = verify_store(store, progress=show)
    rescore = None
    if fraction is not None and not findings:
        from logitstore.build.rescore import rescore_store

        rescore = rescore_store(store, fraction, **teacher, quiet=as_json)
        findings = rescore.findings
    if as_json:
        scores = {} if fraction is None else {"rescore": rescore.to_dict() if rescore else None}
        found = [finding.to_dict() for finding in findings]
        print_json({"clean": not findings, "findings": found, **scores})
    else:
        _print(store, findings, rescore, was_asked=fraction is not None)
    return 1 if findings else 0


def _print(store: str, findings: list[Finding], rescore: Rescore | None, *, was_asked: bool) -> None:
    for finding in findings:
        click.echo(f"{finding.kind}  {finding.where}: {finding.message}")
    if rescore is not None:
        click.echo(rescore.verdict)
    elif was_asked:
        click.echo("The teacher was not run, as the store is damaged.")
    click.echo(f"{store} is clean." if not findings else f"{len(findings)} finding(s) in {store}.")
