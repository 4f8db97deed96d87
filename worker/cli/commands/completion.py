"""`docmill completion`: print a shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from docmill.worker.cli.exit_codes import OK
from docmill.worker.cli.options import Choice

VARIABLE = "_DOCMILL_COMPLETE"


@click.command(
    "completion",
    epilog="Example: source <(docmill completion bash)   # in ~/.bashrc; docs/tutorial.md has zsh and fish",
)
@click.argument("shell", type=Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> int:
    """Print the script that lets SHELL complete docmill's commands, options, choices and files."""
    context = click.get_current_context().find_root()
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.command, {}, "docmill", VARIABLE).source())
    return OK
