"""The schema's history, and the way to bring a database up to date (an admin's act: workers need no DDL rights)."""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

from storage.database import Database
from storage.errors import SchemaOutOfDate

_one_at_a_time = threading.Lock()  # Alembic keeps the context of a command in its modules' globals


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    return config


def head() -> str:
    """The revision that this version of docmill works with."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def current(database: Database) -> str | None:
    """The revision that the database has, None where docmill never was."""
    with database.read() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(database: Database) -> tuple[str | None, str]:
    """Bring the schema up to date; safe to run twice and by two at once. Returns the revisions before and after."""
    before, after = current(database), head()
    if before != after:
        config = _config()
        try:
            with _one_at_a_time, database.engine.connect().execution_options(docmill_write=True) as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except DBAPIError as error:
            raise database.wrap(error) from error
    return before, after


def require_current(database: Database) -> None:
    """Raise SchemaOutOfDate unless the database is at this version's revision."""
    found = current(database)
    if found is None:
        raise SchemaOutOfDate(f"the database {database} has no docmill schema yet; run `docmill db upgrade`")
    if found not in {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}:
        raise SchemaOutOfDate(f"the database {database} belongs to a newer docmill (revision {found})")
    if found != head():
        raise SchemaOutOfDate(f"the database {database} is at revision {found}; run `docmill db upgrade`")
