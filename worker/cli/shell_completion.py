"""Completion of arguments in shells, where Click cannot know the values."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem


def files(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Files and folders, for what may be a file and may be something else."""
    return [CompletionItem(incomplete, type="file")]


def models(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The models that have names; files where a path was begun."""
    from docmill.tasks.specs.pinning import NAMES

    named = [CompletionItem(name) for name in NAMES if name.startswith(incomplete)]
    return named or [CompletionItem(incomplete, type="file")]
