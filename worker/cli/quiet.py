"""The option --quiet."""

from __future__ import annotations

import click

from worker.cli.printing import QUIET


def be_quiet(context: click.Context, _: click.Parameter, quiet: bool) -> None:
    """Let a command print nothing on stderr but warnings and errors."""
    if quiet and not context.resilient_parsing:
        from worker.cli.show import talk

        context.find_root().meta[QUIET] = talk.quiet = True
