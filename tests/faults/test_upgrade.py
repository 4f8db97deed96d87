"""The schema is upgraded to the next release's while workers of this release work, and both go on.

The next release is a copy of this one with one more migration and a table that has its column.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from sqlalchemy import select, text, update

from docmill.storage import migrations
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Shard, db_now
from docmill.storage.core.schema import Worker as WorkerRow
from docmill.worker.jobs.errors import UNREACHABLE
from tests.faults.fleet import SHARD_TEXTS, Fleet, numbered
from tests.storage.builders import sign_on
from tests.worker.harness import DEADLINE_S, copy_packages, device_pids, until

NEXT = "9999"
MIGRATION = f'''"""What a next release might add."""

import sqlalchemy as sa
from alembic import op

revision = "{NEXT}"
down_revision = "{migrations.head()}"


def upgrade() -> None:
    op.create_table("novelty", sa.Column("id", sa.Integer(), primary_key=True))
    for table in ("job", "shard", "outcome", "worker"):
        op.add_column(table, sa.Column("novelty", sa.Text(), server_default="new"))
    op.create_index("ix_outcome_novelty", "outcome", ["novelty"])
'''
LAST_COLUMN = "    n_truncated = column(int, default=0)  # of the done ones\n"


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    """The folder of the next release's code."""
    folder = tmp_path / "next"
    copy_packages(folder)
    (folder / "storage/migrations/versions/9999_novelty.py").write_text(MIGRATION)
    schema = folder / "storage/core/schema.py"
    declared = schema.read_text()
    assert declared.count(LAST_COLUMN) == 1
    schema.write_text(declared.replace(LAST_COLUMN, LAST_COLUMN + "    novelty = column(str, nullable=True)\n"))
    return folder


def test_workers_of_the_release_before_go_on_when_the_schema_is_upgraded_under_them(
    fleet: Fleet, next_release: Path
) -> None:
    n = 24 * SHARD_TEXTS
    job = fleet.give(numbered(n), model="null@700")
    with fleet.worker(fault="computed:hang@2") as old:
        until(lambda: fleet.states()["done"], "it has finished a shard")
        until(fleet.strikes, "it holds a shard that it has computed")
        with fleet.variables(PYTHONPATH=str(next_release)):
            assert "run `docmill db upgrade`" in fleet("jobs", code=UNREACHABLE).stderr
            assert fleet.json("db", "upgrade") == {"before": migrations.head(), "after": NEXT}
            fleet.release()
            new_one = fleet.start_worker()
        try:
            with fleet.worker():  # of the old release, started after the upgrade
                until(lambda: len(fleet.live()) == 3, "old and new workers are ready")
                workers = fleet.live()
                [child] = device_pids(old)
                os.kill(child, signal.SIGKILL)
                until(lambda: set(fleet.live()) - set(workers), "the old worker starts its device process again")
                workers |= fleet.live()
                second_job = fleet.give(numbered(n, first=n), model="null@4000")
                fleet.finish(job)
                fleet.finish(second_job)
        finally:
            new_one.send_signal(signal.SIGQUIT)
            assert new_one.wait(DEADLINE_S) == 0
    owners = {row.owner for row in fleet.shards(Shard.owner)}
    assert owners >= set(workers) - {owner for owner, pid in workers.items() if pid == child}, "somebody sat idle"
    assert fleet.json("db", "upgrade") == {"before": NEXT, "after": NEXT}
    with fleet.database.read() as transaction:
        counts = transaction.execute(text("SELECT count(*), count(novelty) FROM outcome")).one()
        assert tuple(counts) == (2 * n, 2 * n)


def test_an_upgrade_waits_for_a_long_read_without_making_workers_wait_behind_it(
    restartable: Database, tmp_path: Path, next_release: Path
) -> None:
    fleet = Fleet(tmp_path, restartable, None)
    sign_on(restartable, "one")
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'ALTER%'")

    def waits() -> bool:
        with restartable.read() as transaction:
            return bool(transaction.scalar(waiting))

    with restartable.read() as reader:
        reader.execute(select(WorkerRow)).all()
        with fleet.variables(PYTHONPATH=str(next_release)):
            upgrade = fleet.start("db", "upgrade")
        until(waits, "the upgrade waits for the reader")
        alive = update(WorkerRow).values(seen_at=db_now())
        for _ in range(20):  # behind the upgrade they would wait until the reader ends, which it does after them
            restartable.execute(alive)
        assert upgrade.poll() is None
    assert upgrade.wait(60) == 0, fleet.log("db")
    assert migrations.current(restartable) == NEXT
