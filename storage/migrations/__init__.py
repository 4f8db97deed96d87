"""Migrations of the schema. An admin runs them: workers need no DDL privileges."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from docmill.storage.core.database import Database, Uninterrupted
from docmill.storage.core.schema import Compatibility, collections_of_tables
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import DatabaseBusy, SchemaOutOfDate

T = TypeVar("T")

_FOLDER = Path(__file__).parent
_TRIES = 8

_one_at_a_time = threading.Lock()  # Alembic keeps the context of a command in its modules' globals


def head() -> str:
    """Return the revision that this version of docmill works with."""
    return _list_revisions()[-1]


def current(database: Database) -> str | None:
    """Return the revision of the database; None if docmill never used it."""
    with database.read() as transaction:
        return _read_revision(transaction)


def _read_revision(transaction: Transaction) -> str | None:
    """Return the revision that Alembic noted. Alembic takes longer to load than most commands take to run."""
    if not transaction.has_table("alembic_version"):
        return None
    revision: str | None = transaction.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return revision


def upgrade(database: Database) -> tuple[str | None, str]:
    """Upgrade the schema, and make missing tables of features. Return the revisions before and after.

    It may run twice, in two processes at once, and while workers of the release before work. It does not change the
    schema of a newer release that this one can work with. Raises SchemaOutOfDate if it cannot work with the schema,
    and DatabaseBusy if the tables were in use throughout: other transactions would have to wait behind a change that
    waits for a long read, so the change soon gives up and is tried again.
    """
    before = _patiently(lambda: current(database))
    if before is None or _patiently(lambda: is_behind(database)):
        _patiently(lambda: _upgrade(database))
        return before, head()
    require_current(database)
    return before, before


def is_behind(database: Database) -> bool:
    """Return True if `upgrade` would change the schema: it is missing or of an earlier release, or lacks tables."""
    with database.read() as transaction:
        revision = _read_revision(transaction)
        if revision == head():
            return bool(_find_missing_tables(transaction))
    return revision is None or revision in _list_revisions()[:-1]


def _find_missing_tables(transaction: Transaction) -> list[str]:
    """Return the tables of features that the database does not have."""
    needed = [name for metadata in collections_of_tables()[1:] for name in metadata.tables]
    return [name for name in needed if not transaction.has_table(name)]


def _patiently(act: Callable[[], T]) -> T:
    """Return the result of `act`. Try it again while another process changes the schema."""
    for attempt in range(1, _TRIES):
        with suppress(DatabaseBusy):
            return act()
        time.sleep(random.uniform(0.5, 1.0) * attempt)  # noqa: S311 - jitter
    return act()


def _upgrade(database: Database) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    config.set_main_option("path_separator", "os")
    try:
        with (
            _one_at_a_time,
            Uninterrupted(),
            database.engine.connect().execution_options(docmill_write=True) as connection,
        ):
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except DBAPIError as error:
        raise database.wrap(error) from error


def require_current(database: Database) -> None:
    """Raise SchemaOutOfDate unless this version can work with the database's schema.

    That is its own schema, or a newer one whose oldest compatible revision this version knows.
    """
    with database.read() as transaction:
        revision = _read_revision(transaction)
        problem = None
        if revision is None:
            problem = "has no docmill schema yet"
        elif revision in _list_revisions() and revision != head():
            problem = f"is at revision {revision}"
        elif missing := _find_missing_tables(transaction):
            problem = f"lacks tables of features ({', '.join(missing)})"
        if problem is not None:
            raise SchemaOutOfDate(f"the database {database} {problem}; run `docmill db upgrade` as its owner")
        # Read it at any revision, so that a user without the right learns it now, and not on the day of an upgrade.
        oldest = transaction.scalar(select(Compatibility.oldest))
    if oldest not in _list_revisions():
        raise SchemaOutOfDate(
            f"the database {database} belongs to a newer docmill (revision {revision}), which this one is too "
            "old for; install the newer release"
        )


def _list_revisions() -> list[str]:
    """Return all revisions up to this version's, by the names of their files: `0100_what_it_does.py`."""
    return sorted(file.name.partition("_")[0] for file in (_FOLDER / "versions").glob("[0-9]*_*.py"))
