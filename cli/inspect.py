"""`logitstore inspect`: look at a store, a sequence or a position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from logitstore.cli.output import json_option, print_fields, print_json

if TYPE_CHECKING:
    from logitstore.store import Sequence


@click.command(
    epilog="""\b
Examples:
  logitstore inspect my-store
  logitstore inspect my-store --sequence 3
  logitstore inspect my-store --sequence 3 --position 17 --json
"""
)
@click.argument("store")
@click.option("--sequence", type=int, help="Show one sequence; negative numbers count from the end.")
@click.option("--position", type=int, help="Show one position of it (of sequence 0, where none is named).")
@json_option
def command(store: str, sequence: int | None, position: int | None, as_json: bool) -> None:
    """Print STORE's manifest, the tokens of one sequence, or the entries of one position."""
    from logitstore.errors import InvalidInput
    from logitstore.store import open_store

    opened = open_store(store)
    if sequence is None and position is None:
        document = opened.manifest
    else:
        wanted = sequence or 0
        if not -len(opened) <= wanted < len(opened):
            raise InvalidInput(f"there is no sequence {wanted}; {store} has {len(opened)} sequences.")
        found = opened[wanted]
        document = describe_sequence(found) if position is None else describe_position(found, position)
    if as_json:
        print_json(document)
    else:
        print_fields(document)


def describe_sequence(sequence: Sequence) -> dict[str, Any]:
    """Return a sequence as JSON: its tokens, document starts and entries of each position."""
    return {
        "sequence": sequence.index,
        "length": len(sequence.tokens),
        "entries": sequence.targets.num_entries,
        "document_starts": sequence.document_starts.tolist(),
        "tokens": sequence.tokens.tolist(),
        "entry_counts": sequence.targets.counts.tolist(),
    }


def describe_position(sequence: Sequence, position: int) -> dict[str, Any]:
    """Return a position as JSON: its entries, heaviest first, with the token before and the one that follows."""
    from logitstore.errors import InvalidInput

    length = len(sequence.tokens)
    if not -length <= position < length:
        raise InvalidInput(f"there is no position {position}; sequence {sequence.index} has {length} positions.")
    place = position % length
    targets = sequence.targets.slice(place, place + 1)
    order = targets.weights.argsort(descending=True, stable=True)
    following = int(sequence.tokens[place + 1]) if place + 1 < length else None
    return {
        "sequence": sequence.index,
        "position": place,
        "token": int(sequence.tokens[place]),
        "next_token": following,
        "ids": targets.ids[order].tolist(),
        "weights": targets.weights[order].tolist(),
        "weight_sum": float(targets.weights.double().sum()),
    }
