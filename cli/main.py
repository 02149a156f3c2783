"""The `logitstore` command: finds the command asked for, and turns errors into exit codes."""

from __future__ import annotations

import importlib
import sys

import click

from logitstore.errors import LogitstoreError

COMMANDS = ("append", "build", "demo", "estimate", "export", "inspect", "merge", "repair", "stats", "thin", "verify")
INTERRUPTED = 130


class LazyGroup(click.Group):
    """Imports a command's file when it is asked for, so that `--help` needs no torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"logitstore.cli.{cmd_name}").command
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="logitstore")
def root() -> None:
    """Cache a teacher's logits as sparse targets, and train students from them.

    \b
    Examples:
      logitstore build my-store --teacher google/gemma-3-270m --data corpus/
      logitstore stats my-store
      logitstore verify my-store
      logitstore inspect my-store --sequence 3 --position 17
      logitstore demo

    Exit codes: 0 done, 1 failed or damaged, 2 refused before any work, 130 interrupted.
    """  # noqa: D301 - click wants the backspace character


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    try:
        code = root.main(args=arguments, prog_name="logitstore", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except LogitstoreError as error:
        click.echo(f"{type(error).__name__}[{error.kind}]: {error}", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted. Nothing committed is lost; a build goes on with --resume.", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    return code if isinstance(code, int) else 0
