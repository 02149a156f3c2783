"""The option that names the teacher's statistics."""

from __future__ import annotations

from typing import Any

import click

NOTHING = "none"


class StatisticNames(click.ParamType[tuple[str, ...]]):
    """Names with commas between them, such as "entropy,label-probability"; "none" for no statistics.

    Gives the names as `build` takes them, each once, in the order in which they are stored.
    """

    name = "none|NAME,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        # not at the top: `--help` needs no torch
        from logitstore.errors import InvalidInput
        from logitstore.samplers.statistics import check_statistics

        if not isinstance(value, str):
            return check_statistics(value)
        if value.strip() == NOTHING:
            return ()
        names = [name.strip().replace("-", "_") for name in value.split(",")]
        try:
            return check_statistics(names)
        except InvalidInput as error:
            self.fail(str(error).replace("_", "-"), param, ctx)
