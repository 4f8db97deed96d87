"""Migrations make the declared schema, and an upgrade is one transaction."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, event, inspect, text

from docmill.storage import migrations
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Base, collections_of_tables
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion.needed import dependents
from docmill.storage.errors import SchemaOutOfDate
from docmill.storage.results.status import list_statuses
from tests.conftest import Interrupt


def test_the_migrated_schema_equals_the_declared_one(database: Database) -> None:
    dependents()  # loads the tables of features
    with database.engine.connect() as connection:
        opts = {"compare_type": True, "compare_server_default": True, "include_object": _is_of(database)}
        context = MigrationContext.configure(connection, opts=opts)
        assert compare_metadata(context, collections_of_tables()) == []  # type: ignore[arg-type]


def _is_of(database: Database) -> Callable[..., bool]:
    """Return a function that says whether this database has an object: Alembic does not look at `ddl_if`."""
    on_sqlite_alone = {"fk_shard_spec_id", "fk_outcome_spec_id", "fk_outcome_runtime_id"}
    return lambda _object, name, *_: database.server is None or name not in on_sqlite_alone


def test_partial_indexes_are_partial_in_the_migrated_schema_too(database: Database) -> None:
    # Alembic compares an index's columns and not its condition.
    dialect = database.engine.dialect.name
    migrated = {index["name"]: index for index in inspect(database.engine).get_indexes("document")}
    for index in Base.metadata.tables["document"].indexes:
        where = index.dialect_options[dialect]["where"]
        options = migrated[str(index.name)].get("dialect_options", {})
        stored = str(options.get(f"{dialect}_where", "")).strip("()")
        assert stored == ("" if where is None else str(where))


def test_a_database_without_a_schema_is_refused_and_upgrading_twice_changes_nothing(bare_database: Database) -> None:
    with pytest.raises(SchemaOutOfDate, match="no docmill schema yet"):
        migrations.require_current(bare_database)
    with pytest.raises(SchemaOutOfDate, match="docmill db upgrade"):
        list_statuses(bare_database)
    assert migrations.upgrade(bare_database) == (None, migrations.head())
    assert migrations.upgrade(bare_database) == (migrations.head(), migrations.head())
    migrations.require_current(bare_database)


def test_an_upgrade_is_one_transaction(bare_database: Database) -> None:
    # With one transaction for each revision, two upgrades at once would mix, and a killed upgrade would be partial.
    commits: list[Connection] = []
    event.listen(bare_database.engine, "commit", commits.append)
    migrations.upgrade(bare_database)
    assert len([commit for commit in commits if commit.get_execution_options().get("docmill_write")]) == 1


def test_a_ctrl_c_waits_for_the_end_of_an_upgrade(bare_database: Database, interrupt: Interrupt) -> None:
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("docmill_write"):
            interrupt(signal.SIGINT)

    event.listen(bare_database.engine, "begin", begin)
    with pytest.raises(KeyboardInterrupt):
        migrations.upgrade(bare_database)
    migrations.require_current(bare_database)


def test_upgrades_of_two_processes_at_once_take_turns(bare_database: Database) -> None:
    script = """
import sys
from docmill.storage import migrations
from docmill.storage.core.database import Database
database = Database(sys.argv[1])
sys.stdin.read()
migrations.upgrade(database)
"""
    url = bare_database.url.render_as_string(hide_password=False)
    processes = [subprocess.Popen([sys.executable, "-c", script, url], stdin=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0, 0]
    migrations.require_current(bare_database)


def make_newer(database: Database, oldest: str) -> None:
    """Make the database look as if a later release had upgraded it, which is compatible with `oldest` and later."""

    def upgrade(transaction: Transaction) -> None:
        transaction.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        transaction.execute(text("UPDATE compatibility SET oldest = :oldest"), {"oldest": oldest})

    database.write(upgrade)


def test_the_database_of_an_incompatible_newer_docmill_is_refused(database: Database) -> None:
    make_newer(database, "9998")
    for act in (migrations.require_current, migrations.upgrade):
        with pytest.raises(SchemaOutOfDate, match="belongs to a newer docmill"):
            act(database)


def test_the_database_of_a_compatible_newer_docmill_is_used_and_unchanged(database: Database) -> None:
    make_newer(database, migrations.head())
    migrations.require_current(database)
    assert migrations.upgrade(database) == ("9999", "9999")


def test_a_database_of_an_older_docmill_is_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "head", lambda: "9999")
    with pytest.raises(SchemaOutOfDate, match="docmill db upgrade"):
        migrations.require_current(database)
