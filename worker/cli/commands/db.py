"""`docmill db`: look after the store's schema and its kept counts."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict

import click

from docmill.worker.cli.context import open_store, settings_from
from docmill.worker.cli.exit_codes import OK
from docmill.worker.cli.options import JSON
from docmill.worker.cli.printing import print_json, say
from docmill.worker.reports.filters import counted


@click.group("db")
def db_command() -> None:
    """Upgrade the store's schema, and correct its counts."""


@db_command.command(
    "upgrade", epilog="Example: DOCMILL_DATABASE_URL=postgresql://docmill@db/docmill docmill db upgrade"
)
@JSON
def upgrade_command(as_json: bool) -> int:
    """Upgrade the store's schema to this version. Safe to run twice, and while workers run."""
    from docmill.storage.migrations import upgrade
    from docmill.worker.stores import store_of

    with closing(store_of(settings_from())) as database:
        before, after = upgrade(database)
    if as_json:
        print_json({"before": before, "after": after})
    elif before == after:
        say(f"The schema of {database} is up to date ({after}).")
    else:
        say(f"The schema of {database} went from {before or 'nothing'} to {after}.")
    return OK


@db_command.command("recount", epilog="Example: docmill db recount")
@JSON
def recount_command(as_json: bool) -> int:
    """Correct the kept counts of shards, failures and flags.

    Metrics and pages read these counts, and triggers of the schema keep them. They are wrong after rows were restored
    into a schema that was there before (`pg_restore --data-only`). The command counts the rows anew. Run it as the
    owner of the tables; workers may go on meanwhile.
    """
    from docmill.storage.results.counts import recount

    with open_store(settings_from()) as database:
        corrected = recount(database)
        name = str(database)
    if as_json:
        print_json({"corrected": asdict(corrected)})
    elif corrected.shards or corrected.outcomes:
        said = f"{counted(corrected.shards, 'count')} of shards, {corrected.outcomes:,} of failures and flags"
        say(f"Corrected in {name}: {said}.")
    else:
        say(f"The counts of {name} are right.")
    return OK
