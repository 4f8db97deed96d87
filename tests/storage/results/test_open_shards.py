"""The view open_shards has the shards that workers are for, and no others."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import text as sql

from docmill.storage.core.database import Database
from docmill.storage.results.backlog import read_backlog
from docmill.storage.steps import jobs
from tests.storage.builders import EMBED, claim_next, dispatched, numbered, read, request, work


def opened(database: Database) -> Counter[tuple[str, str]]:
    with database.read() as transaction:
        return Counter((row.lane, row.state) for row in transaction.execute(sql("SELECT * FROM open_shards")))


def counted(database: Database) -> Counter[tuple[str, str]]:
    found = read_backlog(database, ("copy", "embed")).shards
    return +Counter(dict(found))


def test_a_shard_is_there_from_its_plan_to_its_commit(database: Database) -> None:
    assert not opened(database)
    job = read(database, request(), numbered(6), chunk=2)
    n = len(dispatched(database))
    assert opened(database) == {("copy", "queued"): n} == counted(database)
    read(database, request("b.jsonl", corpus="others", spec=EMBED), numbered(2))
    assert opened(database) == {("copy", "queued"): n, ("embed", "planned"): 1} == counted(database)
    assert claim_next(database) is not None
    assert opened(database)["copy", "running"] == 1
    jobs.pause(database, job.id)
    assert {lane for lane, _ in opened(database)} == {"embed"}
    assert opened(database) == counted(database)


def test_no_shard_is_there_once_its_job_is_done_or_cancelled(database: Database) -> None:
    read(database, request(), numbered(6), chunk=2)
    dispatched(database)
    work(database)
    assert not opened(database)
    job = read(database, request("b.jsonl", corpus="others", spec=EMBED), numbered(2))
    assert opened(database) == {("embed", "planned"): 1}
    jobs.cancel(database, job.id)
    assert not opened(database)
