"""A job that every live worker refuses is blocked: a command that waits for it says what to do, and ends."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from docmill.storage.core.database import Database
from docmill.storage.leases import dispatch
from docmill.storage.leases.diagnosis import Cause
from docmill.storage.results.status import JobStatus
from docmill.worker.cli.printing import exit_code_of
from docmill.worker.jobs import follow
from docmill.worker.terminal import Terminal
from tests.storage.builders import claim_next, numbered, read, request, shards_of, sign_on


def _refused(database: Database) -> int:
    """Read a job that the only worker refuses, and return its number."""
    job = read(database, request(), numbered(3))
    sign_on(database, "w1")
    dispatch.refuse(database, "w1", shards_of(database, job)[0].spec_id, "cannot serve it: no vLLM.")
    return job.id


def test_a_watcher_leaves_a_job_that_stays_blocked(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    job = _refused(database)
    monkeypatch.setattr(follow, "BLOCKED_PATIENCE_S", 0.0)
    status = follow.follow(database, job)
    assert (status.state, status.ended, exit_code_of(status)) == ("blocked", False, 1)


def test_a_watcher_stays_with_a_job_whose_model_comes_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _refused(database)
    looks: list[str] = []

    def mend(status: object) -> None:
        looks.append(getattr(status, "state", ""))
        if len(looks) == 2:
            dispatch.accept(database, "w1", spec_id)
        if len(looks) == 4:
            raise KeyboardInterrupt

    spec_id = shards_of(database, job)[0].spec_id
    # Half a minute between two looks: the last is more than the patience after the first that saw it blocked.
    clock = SimpleNamespace(monotonic=lambda: 1.0 + 30.0 * len(looks), sleep=lambda _: None)
    monkeypatch.setattr(follow, "time", clock)
    with pytest.raises(KeyboardInterrupt):
        follow.follow(database, job, watch=mend)
    assert looks == ["blocked", "blocked", "running", "running"]


@pytest.mark.parametrize(("own_worker", "n_warnings"), [(True, 0), (False, 1)])
def test_a_silent_worker_is_reported_once_and_a_runs_own_worker_never(
    database: Database, capsys: pytest.CaptureFixture[str], own_worker: bool, n_warnings: int
) -> None:
    job = read(database, request(), numbered(3))
    sign_on(database, "w1")
    claim_next(database, "w1")
    looks: list[JobStatus] = []

    def grow_older(status: JobStatus) -> None:
        """Let 20 seconds pass since the worker's last heartbeat, and then a second between two looks."""
        looks.append(status)
        if len(looks) == 5:
            raise KeyboardInterrupt
        query = f"UPDATE worker SET seen_at = seen_at - {20 if len(looks) == 1 else 1}"
        database.write(lambda transaction: transaction.exec_driver_sql(query))
        query = "UPDATE shard SET lease_until = lease_until - 1"
        database.write(lambda transaction: transaction.exec_driver_sql(query))

    in_flight = (lambda: 0.0) if own_worker else None
    with pytest.raises(KeyboardInterrupt):
        follow.follow(database, job.id, Terminal(), watch=grow_older, in_flight=in_flight, wait=lambda _: None)
    assert len({status.waiting_for for status in looks if status.waiting_cause is Cause.LEASE}) > 1
    assert capsys.readouterr().err.count("gives no sign of life") == n_warnings
