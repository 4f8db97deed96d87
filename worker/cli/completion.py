"""Completion of `docmill` in shells: Click's scripts, and what it cannot know of our arguments."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

from worker.cli.faults import OK

VARIABLE = "_DOCMILL_COMPLETE"


@click.command(
    "completion",
    epilog="Example: source <(docmill completion bash)   # in ~/.bashrc; the README has the lines for zsh and fish",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> int:
    """Print the script that lets SHELL complete docmill's commands, options, choices and files."""
    context = click.get_current_context().find_root()
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.command, {}, "docmill", VARIABLE).source())
    return OK


def files(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Files and folders, for what may be a file and may be something else."""
    return [CompletionItem(incomplete, type="file")]


def models(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The models that have names; files where a path was begun."""
    from tasks.models import ALIASES

    named = [CompletionItem(name) for name in ALIASES if name.startswith(incomplete)]
    return named or [CompletionItem(incomplete, type="file")]
