"""PostgreSQL restarted, or cut off around a COMMIT: a transaction runs again, and its result is there once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from storage.database import Database
from storage.flow.cutting import unpack
from storage.schema import Shard
from tests.faults.mill import SHARD_TEXTS, Mill, numbered
from tests.faults.proxy import Cut, Proxy
from tests.faults.servers import PostgresCluster
from tests.worker.harness import until

OUTCOMES = b"INSERT INTO outcome"
CLAIM = b"started_at="


@pytest.fixture
def mill(tmp_path: Path, restartable: Database, redis_url: str) -> Mill:
    return Mill(tmp_path, restartable, redis_url)


@pytest.fixture
def proxy(mill: Mill, own_postgres: PostgresCluster) -> Iterator[Proxy]:
    """Between docmill's processes and the database; the test itself goes past it."""
    with Proxy(own_postgres.port) as proxy:
        url = make_url(mill.environment["DOCMILL_DATABASE_URL"]).set(port=proxy.port)
        mill.environment["DOCMILL_DATABASE_URL"] = url.render_as_string(hide_password=False)
        yield proxy


def test_a_database_that_is_restarted_hard_delays_the_work_and_loses_none(
    mill: Mill, own_postgres: PostgresCluster
) -> None:
    n = 10 * SHARD_TEXTS
    job = mill.give(numbered(n), model="null@1500")
    with mill.worker():
        until(lambda: mill.states()["done"] >= 2, "some of it is done")
        own_postgres.restart_hard()
        until(lambda: mill.states()["done"] >= 5, "it goes on")
        own_postgres.restart_hard()
        assert mill.finish(job).done == n
    assert "Traceback" not in mill.log("worker")


@pytest.mark.parametrize("when", list(Cut), ids=["before", "after"])
def test_a_commit_whose_answer_nobody_heard_is_settled_by_reading_and_stored_once(
    mill: Mill, proxy: Proxy, when: Cut
) -> None:
    job = mill.give(numbered(4 * SHARD_TEXTS))
    proxy.cut_at_commit(when, having=OUTCOMES)
    with mill.worker():
        status = mill.finish(job)
    assert proxy.cuts == 1
    assert status.done == 4 * SHARD_TEXTS
    shards = mill.shards(Shard.attempt, Shard.fence)
    assert {(row.attempt, row.fence) for row in shards} == {(1, 1)}, "nothing was computed again"
    assert "Traceback" not in mill.log("worker")


@pytest.mark.parametrize("when", list(Cut), ids=["before", "after"])
def test_a_claim_whose_answer_nobody_heard_is_taken_or_found_to_be_ours(mill: Mill, proxy: Proxy, when: Cut) -> None:
    job = mill.give(numbered(3 * SHARD_TEXTS))
    proxy.cut_at_commit(when, having=CLAIM)
    with mill.worker():
        mill.finish(job)
    assert proxy.cuts == 1
    assert {row.attempt for row in mill.shards(Shard.attempt)} == {1}


def test_an_enqueue_whose_connection_is_cut_around_a_commit_stores_every_document_once(
    mill: Mill, proxy: Proxy
) -> None:
    path = mill.corpus(numbered(3000))
    for when in Cut:
        proxy.cut_at_commit(when, having=b"COPY document")
        done = mill.json("enqueue", path, "--task", "translate", "--model", "null", "--corpus", when.name)
        assert done["documents"] == 3000
    assert proxy.cuts == 2
    planned = Counter[int]()
    for shard in mill.shards(Shard.job_id, Shard.contents):
        contents = unpack(shard.contents)
        assert len(set(contents)) == len(contents)
        planned[shard.job_id] += len(contents)
    assert planned == {1: 3000, 2: 3000}
