"""`docmill db`: look after the store's schema."""

from __future__ import annotations

from contextlib import closing

import click

from worker.cli.context import settings_from
from worker.cli.exit_codes import OK
from worker.cli.options import JSON
from worker.cli.printing import print_json, say


@click.group("db")
def db_command() -> None:
    """Upgrade the store's schema."""


@db_command.command(
    "upgrade", epilog="Example: DOCMILL_DATABASE_URL=postgresql://docmill@db/docmill docmill db upgrade"
)
@JSON
def upgrade_command(as_json: bool) -> int:
    """Upgrade the store's schema to this version. Safe to run twice, and while workers run."""
    from storage.migrations import upgrade
    from worker.stores import store_of

    with closing(store_of(settings_from())) as database:
        before, after = upgrade(database)
    if as_json:
        print_json({"before": before, "after": after})
    elif before == after:
        say(f"The schema of {database} is up to date ({after}).")
    else:
        say(f"The schema of {database} went from {before or 'nothing'} to {after}.")
    return OK
