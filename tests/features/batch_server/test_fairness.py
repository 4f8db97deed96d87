"""A small batch of one key beside a large one of another, which the workers compute already."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import func, select

from docmill.features.batch_server.stored_batches import ApiBatch
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Job, Shard
from tests.faults.fleet import Fleet
from tests.features.batch_server.api import chat, put, read, running, start, wait
from tests.worker.harness import until

N_LARGE, N_SMALL = 5_000, 10


def n_shards(database: Database, state: str) -> int:
    with database.read() as transaction:
        return transaction.scalar(select(func.count()).where(Shard.state == state)) or 0


def test_ten_lines_wait_for_at_most_two_shards_of_another_keys_thousands(database: Database, tmp_path: Path) -> None:
    """Shards are counted in the order in which they were claimed, from the time when the ten are jobs.

    The queue is the worker's own, and the server sends to it as to a Redis.
    """
    fleet = Fleet(tmp_path, database, None, threads=8, upkeep_s=600)
    with running(database, tmp_path / "home") as api:
        api.clerk.models = {"hosted": "null@4000"}
        url = fleet.environment["DOCMILL_DATABASE_URL"]
        api.clerk.settings = api.settings.model_copy(update={"database_url": url})
        alice, bob = api.client("alice"), api.client("bob")
        large = [chat(f"r{n}", f"Number {n} of many has eight words.") for n in range(N_LARGE)]
        small = [chat(f"r{n}", f"Number {n} of a few has eight words.") for n in range(N_SMALL)]
        with api.clerk, fleet.worker():
            until(fleet.live, "the worker is ready")
            batch = start(alice, put(alice, *large))
            until(lambda: alice.batches.retrieve(batch.id).status == "in_progress", "all of it is read")
            until(lambda: n_shards(database, "done") > 2, "some of it is computed")
            done = wait(bob, start(bob, put(bob, *small)))
            assert n_shards(database, "planned") > 10
            assert len(read(bob, done.output_file_id)) == N_SMALL
            assert alice.batches.cancel(batch.id).status == "cancelling"
            wait(alice, batch, "cancelled")
    with database.read() as transaction:
        times = transaction.execute(select(ApiBatch.times).where(ApiBatch.id == done.id)).scalar_one()
        last_job = select(func.max(Job.id)).scalar_subquery()
        claimed_at = transaction.execute(
            select(func.min(Shard.started_at)).where(Shard.job_id == last_job)
        ).scalar_one()
        others = (Shard.job_id != last_job, Shard.started_at > times["in_progress"], Shard.started_at < claimed_at)
        assert (transaction.scalar(select(func.count()).where(*others)) or 0) <= 2
