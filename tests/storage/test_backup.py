"""A backup, as docs/deploy.md has it, of a store that is being written: exports and counts are the same."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import insert, text

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Corpus, db_now
from docmill.storage.migrations import require_current
from docmill.storage.results.counts import recount
from docmill.storage.results.results import columns, results
from docmill.storage.results.status import list_statuses
from docmill.storage.steps import jobs
from docmill.storage.writers import Target
from tests.faults.servers import missing
from tests.kinds import KINDS
from tests.postgres import PostgresServer
from tests.storage import builders
from tests.storage.ledger import assert_exported, exported

LANES = ("copy",)
# Where the data alone are restored into a schema that `docmill db upgrade` made.
EMPTIED = "TRUNCATE alembic_version, compatibility, work_count"


def _libpq(url: str) -> str:
    return url.replace("postgresql+psycopg", "postgresql")


def _run(*command: str) -> None:
    """A program of PostgreSQL's, which works with servers up to its own version only."""
    if shutil.which(command[0]) is None:
        missing(f"{command[0]} is not on this machine")
    done = subprocess.run(command, capture_output=True, text=True)
    if "server version mismatch" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr


def _filled(database: Database) -> Database:
    """One job that is done and one in the middle, with texts that a dump has to quote."""
    texts = [(f"{i}.txt", f'{i}: O\'Brien \\N \\. "quoted"\ttab\nline \U0001f600 é') for i in range(20)]
    builders.read(database, builders.request(spec=builders.TRANSLATE), texts)
    builders.work(database, builders.echo)
    jobs.finish(database)
    builders.read(database, builders.request("b.jsonl", corpus="others"), builders.numbered(5))
    return database


def _while_written(database: Database, backup: Callable[[], None]) -> None:
    """Take a backup while a transaction has written what it has not committed."""
    with database.engine.connect().execution_options(docmill_write=True) as connection, connection.begin():
        connection.execute(insert(Corpus).values(name="half-written", created_at=db_now()))
        backup()
        connection.rollback()


def _export(database: Database, folder: Path) -> list[bytes]:
    folder.mkdir()
    targets = [Target.of(folder / name) for name in ("out.jsonl", "out.csv")]
    for target in targets:
        target.write(results(database, 1), columns(database, 1))
    return [target.path.read_bytes() for target in targets]


def _assert_same(database: Database, copy: Database, folder: Path) -> None:
    require_current(copy)
    exported = _export(copy, folder / "restored")
    assert exported == _export(database, folder / "original")
    assert exported[0].count(b"\n") == 20
    assert _jobs(copy) == _jobs(database) == [(2, "running", 0, 5), (1, "done", 20, 0)]
    builders.finish(copy)  # and goes on where it was
    assert _jobs(copy) == [(2, "done", 5, 0), (1, "done", 20, 0)]


def _jobs(database: Database) -> list[tuple[int, str, int, int]]:
    return [(status.id, status.state, status.done, status.pending) for status in list_statuses(database)]


def _opened(url: str) -> closing[Database]:
    return closing(Database(url, kinds=KINDS))


def test_a_restored_sqlite_store_exports_the_same_bytes(sqlite_url: str, tmp_path: Path) -> None:
    def back_up() -> None:
        with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection:
            connection.execute("VACUUM INTO ?", (str(tmp_path / "copy.db"),))

    with _opened(sqlite_url) as database, _opened(f"sqlite:///{tmp_path / 'copy.db'}") as copy:
        _while_written(_filled(database), back_up)
        _assert_same(database, copy, tmp_path)


def test_a_restored_postgresql_store_exports_the_same_bytes(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    dump, restored = str(tmp_path / "docmill.dump"), postgres_server.create()
    with _opened(postgres_url) as database, _opened(postgres_server.url(restored)) as copy:
        _while_written(
            _filled(database),
            lambda: _run("pg_dump", "--format=custom", f"--file={dump}", f"--dbname={_libpq(postgres_url)}"),
        )
        _run("pg_restore", "--exit-on-error", f"--dbname={_libpq(postgres_server.url(restored))}", dump)
        _assert_same(database, copy, tmp_path)
    postgres_server.drop(restored)


def test_data_that_triggers_counted_again_are_recounted(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    name, dump = postgres_server.create(postgres_server.template), str(tmp_path / "docmill.dump")
    with _opened(postgres_url) as database, _opened(postgres_server.url(name)) as copy:
        builders.read(database, builders.request(), builders.numbered(9), chunk=3)
        for outcomes in (builders.flagged, builders.failed):
            builders.commit_next(database, outcomes)
        # As in a store that worked for long: rows of counts were merged, so their numbers are high.
        for table in ("shard_count", "work_count"):
            database.execute(text(f"UPDATE {table} SET id = id + 100000"))
        # The dump has the data alone: a whole one has the rows in an order that foreign keys refuse.
        _run("pg_dump", "--format=custom", "--data-only", f"--file={dump}", f"--dbname={_libpq(postgres_url)}")
        url = _libpq(postgres_server.url(name))
        _run("psql", "--quiet", f"--dbname={url}", f"--command={EMPTIED}")
        _run("pg_restore", "--single-transaction", "--data-only", f"--dbname={url}", dump)
        wrong, right = exported(copy, LANES), exported(database, LANES)
        twice = {key[0] for key, n in right.items() if wrong[key] == 2 * n}
        # Outcomes come before their specs, whose kinds name their counts, so that they were not counted again.
        assert twice == {"shards"}
        assert recount(copy)["outcomes"] == 0
        assert exported(copy, LANES) == right
        builders.work(copy)
        assert_exported(copy, LANES)
    postgres_server.drop(name)
