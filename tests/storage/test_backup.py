"""A backup of a store during a write, as in docs/deploy.md, has the same exports and counts."""

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
from docmill.storage.writers import Target
from tests.faults.servers import missing
from tests.kinds import KINDS
from tests.postgres import PostgresServer
from tests.storage.builders import (
    TRANSLATE,
    commit_next,
    echo,
    failed,
    finish,
    flagged,
    numbered,
    read,
    request,
    run_job,
    work,
)
from tests.storage.ledger import assert_exported, read_figures

LANES = ("copy",)
# For data without a schema, which are restored into one that `docmill db upgrade` made.
EMPTIED = "TRUNCATE alembic_version, compatibility, work_count"


def _libpq(url: str) -> str:
    return url.replace("postgresql+psycopg", "postgresql")


def _run(*command: str) -> None:
    """Run a program of PostgreSQL. Skip the test if the server is newer than the program."""
    if shutil.which(command[0]) is None:
        missing(f"{command[0]} is not on this machine")
    done = subprocess.run(command, capture_output=True, text=True)
    if "server version mismatch" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr


def _fill(database: Database) -> None:
    """Read a job that is done and one that is running, with texts that a dump has to quote."""
    texts = [(f"{i}.txt", f'{i}: O\'Brien \\N \\. "quoted"\ttab\nline \U0001f600 é') for i in range(20)]
    run_job(database, request(spec=TRANSLATE), texts, echo)
    read(database, request("b.jsonl", corpus="others"), numbered(5))


def _while_written(database: Database, backup: Callable[[], None]) -> None:
    """Take a backup while a transaction has written rows and not committed them."""
    with database.engine.connect().execution_options(docmill_write=True) as connection, connection.begin():
        connection.execute(insert(Corpus).values(name="half-written", created_at=db_now()))
        backup()
        connection.rollback()


def _export(database: Database, folder: Path) -> list[bytes]:
    """Return the bytes of an export in each of two formats."""
    folder.mkdir()
    targets = [Target.of(folder / name) for name in ("out.jsonl", "out.csv")]
    for target in targets:
        target.write(results(database, 1), columns(database, 1))
    return [target.path.read_bytes() for target in targets]


def _assert_same(database: Database, copy: Database, folder: Path) -> None:
    """Assert that a copy of a store has the same results and jobs, and can go on with its job."""
    require_current(copy)
    restored = _export(copy, folder / "restored")
    assert restored == _export(database, folder / "original")
    assert restored[0].count(b"\n") == 20
    assert _jobs(copy) == _jobs(database) == [(2, "running", 0, 5), (1, "done", 20, 0)]
    finish(copy)
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
        _fill(database)
        _while_written(database, back_up)
        _assert_same(database, copy, tmp_path)


def test_a_restored_postgresql_store_exports_the_same_bytes(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    dump, restored = str(tmp_path / "docmill.dump"), postgres_server.create()
    with _opened(postgres_url) as database, _opened(postgres_server.url(restored)) as copy:
        _fill(database)
        command = ("pg_dump", "--format=custom", f"--file={dump}", f"--dbname={_libpq(postgres_url)}")
        _while_written(database, lambda: _run(*command))
        _run("pg_restore", "--exit-on-error", f"--dbname={_libpq(postgres_server.url(restored))}", dump)
        _assert_same(database, copy, tmp_path)
    postgres_server.drop(restored)


def test_data_that_triggers_counted_again_are_recounted(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    name, dump = postgres_server.create(postgres_server.template), str(tmp_path / "docmill.dump")
    with _opened(postgres_url) as database, _opened(postgres_server.url(name)) as copy:
        read(database, request(), numbered(9), chunk=3)
        for outcomes in (flagged, failed):
            commit_next(database, outcomes)
        # In an old store, rows of counts have been merged, so their ids are high.
        for table in ("shard_count", "work_count"):
            database.execute(text(f"UPDATE {table} SET id = id + 100000"))
        # The dump has only the data: a full dump has the rows in an order that foreign keys refuse.
        _run("pg_dump", "--format=custom", "--data-only", f"--file={dump}", f"--dbname={_libpq(postgres_url)}")
        url = _libpq(postgres_server.url(name))
        _run("psql", "--quiet", f"--dbname={url}", f"--command={EMPTIED}")
        _run("pg_restore", "--single-transaction", "--data-only", f"--dbname={url}", dump)
        wrong, right = read_figures(copy, LANES), read_figures(database, LANES)
        twice = {key[0] for key, n in right.items() if wrong[key] == 2 * n}
        # Outcomes were restored before their specs, whose kinds name the counts, so they were not counted again.
        assert twice == {"shards"}
        assert recount(copy)["outcomes"] == 0
        assert read_figures(copy, LANES) == right
        work(copy)
        assert_exported(copy, LANES)
    postgres_server.drop(name)
