"""How results are printed: JSON for programs, aligned lines for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def print_json(document: Any) -> None:
    """Print a document as indented JSON."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_fields(fields: Mapping[str, Any], *, indent: str = "") -> None:
    """Print names and values, one a line."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        if isinstance(value, Mapping):
            click.echo(f"{indent}{name}")
            print_fields(value, indent=indent + "  ")
        else:
            shown = f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if type(value) is int else value
            click.echo(f"{indent}{name:<{width}}  {shown}")
