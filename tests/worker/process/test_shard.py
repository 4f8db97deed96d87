"""A hint's way through a device process, on a real store; the engine's outcomes are the test's own."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.outcomes import Outcome, Status
from docmill.storage.core.schema import OutcomeRow, Shard
from docmill.storage.core.specs import Spec
from docmill.storage.core.tables import db_now
from docmill.storage.errors import DatabaseUnreachable
from docmill.storage.ingest import ingest
from docmill.storage.leases import dispatch, shards
from docmill.storage.leases.health import health
from docmill.storage.steps import jobs
from docmill.storage.steps.jobs import JobRequest
from docmill.storage.steps.steps import StepRequest
from docmill.tasks.backends import Backend
from docmill.tasks.engine.engine import Engine
from docmill.tasks.errors import CannotServe
from docmill.tasks.specs import pinning
from docmill.tasks.windows.windows import Encoded
from docmill.worker.engines.engines import opener
from docmill.worker.process.in_flight import InFlight
from docmill.worker.process.shard import Process
from docmill.worker.settings import load_settings
from tests.kinds import KINDS
from tests.storage.builders import gathered

RUNTIME = {"device": "cpu", "precision": "float32", "backend": "none", "versions": {}}


class HalfDone:
    """A ticket of which the first text has its outcome."""

    complete = False

    def __init__(self, content_id: int) -> None:
        self._content_id = content_id

    def finished(self) -> list[Outcome]:
        return [Outcome(self._content_id, Status.DONE, text="finished", tokens_in=1)]

    def take_journaled(self, content_ids: Iterable[int]) -> list[Encoded]:
        assert [*content_ids] == [self._content_id], "the backend need not keep what is stored"
        return []


@pytest.fixture
def process(database: Database) -> Process:
    nothing = cast(Any, None)
    return Process(owner="me", database=database, broker=nothing, engine=Engine(nothing), lease_s=60)


def _claim_two(database: Database) -> InFlight:
    job = jobs.open_job(database, JobRequest("c", "/x", (StepRequest("copy", Spec("copy", "m", "sha256:0")),)))
    ingest.add(database, job, gathered(*[(key, f"text {key}", {}, (), seq) for seq, key in enumerate("ab")]))
    ingest.end(database, job)
    [lane] = dispatch.lanes(database)
    [shard_id] = dispatch.take(database, lane)
    head = shards.look(database, shard_id)
    assert head is not None
    claim = shards.claim(database, head, "me")
    assert claim is not None
    return InFlight(head, claim)


def test_what_is_given_back_at_once_keeps_what_is_finished(database: Database, process: Process) -> None:
    ours = _claim_two(database)
    ours.ticket, ours.runtime = cast(Any, HalfDone(ours.claim.texts[0][0])), RUNTIME
    process.in_flight.enter(ours)
    process.give_back()
    with database.read() as transaction:
        shards_now = transaction.execute(select(Shard.state, Shard.attempt, Shard.n_contents).order_by(Shard.id))
        assert [tuple(shard) for shard in shards_now] == [("planned", 0, 1), ("done", 0, 1)]
        [row] = transaction.execute(select(OutcomeRow.text, OutcomeRow.runtime_id)).all()
    assert row.text == "finished"
    assert row.runtime_id is not None


def test_a_hint_waits_in_the_hand_for_a_database_that_is_away(
    database: Database, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def look(_: Database, shard_id: int) -> None:
        looks.append(shard_id)
        if len(looks) < 3:
            raise DatabaseUnreachable

    monkeypatch.setattr(shards, "look", look)
    process.run_shard(7)
    assert looks == [7, 7, 7]


def test_a_hint_is_not_waited_with_by_a_process_that_drains(
    database: Database, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(_: Database, shard_id: int) -> None:
        process.draining.set()
        raise DatabaseUnreachable

    monkeypatch.setattr(shards, "look", look)
    process.run_shard(7)


def test_a_hint_is_put_back_where_the_engine_stops_before_its_model_is_loaded(database: Database) -> None:
    job = jobs.open_job(database, JobRequest("c", "/x", (StepRequest("copy", Spec("copy", "m", "sha256:0")),)))
    ingest.add(database, job, gathered(("a", "text", {}, (), 0)))
    ingest.end(database, job)
    [lane] = dispatch.lanes(database)
    [shard_id] = dispatch.take(database, lane)

    def open_backend(spec: Spec) -> Backend:
        raise AssertionError("nothing is loaded any more")

    engine = Engine(open_backend)
    engine.drain()
    Process(owner="me", database=database, broker=cast(Any, None), engine=engine, lease_s=60).run_shard(shard_id)
    with database.read() as transaction:
        assert transaction.execute(select(Shard.state, Shard.attempt)).one() == ("planned", 0)


def test_no_attempt_is_spent_on_a_shard_whose_server_goes_away_after_its_claim(database: Database) -> None:
    job = jobs.open_job(database, JobRequest("c", "/x", (StepRequest("copy", Spec("copy", "m", "sha256:0")),)))
    ingest.add(database, job, gathered(("a", "text", {}, (), 0)))
    ingest.end(database, job)
    [lane] = dispatch.lanes(database)
    [shard_id] = dispatch.take(database, lane)

    class Away:
        def open(self, spec: Spec) -> None:
            """Find the server there."""

        def runtime(self, spec: Spec) -> None:
            taking.draining.set()  # it takes no other shard
            raise CannotServe("the server does not answer")

    said: list[str] = []
    taking = Process(
        owner="me",
        database=database,
        broker=cast(Any, None),
        engine=cast(Any, Away()),
        lease_s=60,
        say=lambda event, **_: said.append(event),
    )
    taking.run_shard(shard_id)
    assert said == ["refused", "idle"]
    with database.read() as transaction:
        assert transaction.execute(select(Shard.state, Shard.attempt)).one() == ("planned", 0)


def test_leases_are_renewed_while_the_other_threads_hold_every_connection(database: Database) -> None:
    nothing = cast(Any, None)
    busy = Database(database.url.render_as_string(hide_password=False), pool_size=1, kinds=KINDS)
    process = Process(
        owner="me", database=busy, heartbeat_database=database, broker=nothing, engine=nothing, lease_s=600
    )
    ours = _claim_two(database)
    process.in_flight.enter(ours)
    with ExitStack() as held:
        for _ in range(2):  # the pool's one, and the one beyond it
            held.enter_context(busy.read())
        process.heartbeat(hears=True)
    with database.read() as transaction:
        assert transaction.scalar(select(Shard.lease_until > db_now() + 300))
    busy.close()


def test_a_process_whose_device_computes_nothing_is_unhealthy_until_it_serves_something(
    database: Database, tmp_path: Path
) -> None:
    """No machine has a hundred devices, so the last of them can compute nothing."""
    settings = load_settings(home=tmp_path)
    pinned, null = (pinning.pin(name, models_dir=None, cache_dir=tmp_path) for name in ("minilm", "null"))
    engine = Engine(opener(settings, "cuda:99"))
    engine.start()
    process = Process(owner="me", database=database, broker=cast(Any, None), engine=engine, lease_s=60)
    sign_on = partial(dispatch.sign_on, database, "me", host="h", pid=1, device="cuda:99", slots=1, version="0")
    sign_on(lanes=["embed"])

    def hinted(spec: Spec) -> int:
        job = jobs.open_job(database, JobRequest(spec.model, "/x", (StepRequest("embed", spec),)))
        ingest.add(database, job, gathered(("a", "text", {}, (), 0)))
        ingest.end(database, job)
        [lane] = dispatch.lanes(database)
        return dispatch.take(database, lane, only_job=job.id)[0]

    def problem() -> str | None:
        process.heartbeat(hears=True)
        return health(database, "h").problem

    try:
        assert problem() is None
        process.run_shard(hinted(Spec("embed", pinned.model, pinned.revision, "float32")))
        assert "the worker on cuda:99 can compute nothing" in (problem() or "")
        head = shards.look(
            database,
            hinted(Spec("embed", null.model, null.revision, "float32")),
        )
        assert head is not None
        assert process._can_serve(head)
        assert problem() is None
    finally:
        engine.close()


def test_a_shard_that_was_taken_away_is_told_by_the_next_heartbeat(database: Database, process: Process) -> None:
    ours = _claim_two(database)
    process.in_flight.enter(ours)
    process.heartbeat(hears=True)
    assert not ours.lost.is_set()
    database.write(lambda transaction: transaction.execute(Shard.__table__.update().values(fence=Shard.fence + 1)))
    process.heartbeat(hears=True)
    assert ours.lost.is_set()


def test_a_shard_that_was_lost_and_claimed_again_by_the_same_process_keeps_its_lease(
    database: Database, process: Process
) -> None:
    lost = _claim_two(database)
    process.in_flight.enter(lost)
    database.write(
        lambda transaction: transaction.execute(
            Shard.__table__.update().values(state="queued", fence=Shard.fence + 1)
        )
    )
    head = shards.look(database, lost.claim.shard_id)
    assert head is not None
    claim = shards.claim(database, head, "me")
    assert claim is not None
    again = InFlight(head, claim)
    process.in_flight.enter(again)
    process.heartbeat(hears=True)
    assert (lost.lost.is_set(), again.lost.is_set()) == (True, False)
    process.in_flight.leave(lost)
    process.heartbeat(hears=True)
    assert not again.lost.is_set()
    assert process.computed() == {claim.job_id: 0.0}
    assert [ours.claim.fence for ours in process.in_flight.held()] == [claim.fence]
