"""Scheduled runs whose reading and writing take long, whose workers die, and whose jobs are taken away."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import select, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Ingest, Job, PipelineRun, db_now
from docmill.storage.deletion import gc, removal
from docmill.storage.pipelines import pipelines
from docmill.storage.steps import jobs
from docmill.worker import exports
from docmill.worker.pipelines import running
from docmill.worker.pipelines.running import advance
from docmill.worker.process.maintenance_thread import round_of_schedules
from docmill.worker.queue.broker import Broker
from docmill.worker.queue.messages import RUN_LANE
from docmill.worker.settings import load_settings
from tests.faults.fleet import Fleet
from tests.faults.servers import RedisServer
from tests.storage.builders import count_rows, work
from tests.storage.readers.site import Site, serving
from tests.worker.harness import until

N = 600  # more than one chunk
LINES = b"".join(json.dumps({"id": f"{n}", "text": f"text {n} " * 40}).encode() + b"\n" for n in range(N))
HOURLY = {"cron": "0 * * * *", "timezone": "UTC", "overlap": "queue"}
STEPS = """
name = "nightly"
[corpus]
source = "{source}"
[[step]]
name = "english"
task = "translate"
model = "null"
[output]
file = "out.jsonl"
"""
SLOW_EXPORT = """
import os, time
from docmill.storage.results import results
rows = results.results
def slow(*arguments, **options):
    yield from rows(*arguments, **options)
    with open({begun!r}, "a") as begun:
        begun.write("x")
    while not os.path.exists({go!r}):
        time.sleep(0.05)
results.results = slow
"""


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        site.files["/corpus.jsonl"] = LINES
        yield site


def keep(database: Database, folder: Path, source: str) -> None:
    text = STEPS.format(source=source)
    pipelines.put(database, "nightly", str(folder / "nightly.toml"), text, HOURLY)


def fire(database: Database, due_at: float = 1.0) -> int:
    run_id = pipelines.fire(database, pipelines.scheduled(database)[0], due_at)
    assert run_id is not None
    return run_id


def run_of(database: Database, run_id: int) -> Any:
    return next(run for run in pipelines.history(database, "nightly") if run.id == run_id)


def hand_out_period_passes(database: Database) -> None:
    database.execute(update(PipelineRun).values(handed_at=db_now() - 10 * pipelines.HAND_AGAIN_S))


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_a_reading_and_an_export_that_take_long_are_done_once_and_by_one_worker(fleet: Fleet, site: Site) -> None:
    begun, go = fleet.folder / "begun", fleet.folder / "go"
    fleet.patch(SLOW_EXPORT.format(begun=str(begun), go=str(go)))
    site.pause = threading.Event()
    keep(fleet.database, fleet.folder, f"{site.url}/corpus.jsonl")
    run_id = fire(fleet.database)

    def renewed_after_the_hand_out_period(since: float) -> Callable[[], bool]:
        def renewed() -> bool:
            hand_out_period_passes(fleet.database)
            return (run_of(fleet.database, run_id).lease_until or 0.0) > since

        return renewed

    with fleet.worker(lease_s=60):
        for phase in ("reading", "writing"):
            if phase == "writing":
                until(begun.exists, "the output is being written")
            held = until(lambda: run_of(fleet.database, run_id).lease_until, f"the run is held while {phase}")
            until(renewed_after_the_hand_out_period(held), f"its lease is renewed while {phase}")
            site.pause.set()
        go.touch()
        until(lambda: run_of(fleet.database, run_id).finished_at, "the run has ended")
    run = run_of(fleet.database, run_id)
    assert (run.state, run.reason, run.fence) == ("done", None, 2), "taken once to be read and once to be written"
    assert begun.read_text() == "x"
    assert (count_rows(fleet.database, Job), count_rows(fleet.database, Ingest)) == (1, 1)
    assert sorted(ids(fleet.folder / "out.jsonl"), key=int) == [str(n) for n in range(N)]


class Crew:
    """Workers' threads within the test's process, which do what messages about runs and shards make workers do."""

    def __init__(self, database: Database, broker: Broker, folder: Path) -> None:
        self.database = database
        self._broker = broker
        self.settings = load_settings(home=folder / "home")
        self._threads = ThreadPoolExecutor(4)

    def advance(self, run_id: int, owner: str = "w1", stop: threading.Event | None = None) -> None:
        advance(self.settings, self.database, self._broker, run_id, owner=owner, stop=stop)

    def begin(self, run_id: int, owner: str = "w1") -> Future[None]:
        return self._threads.submit(self.advance, run_id, owner)

    def do_all(self, rounds: int = 4) -> None:
        """Do all that there is to do. A run takes two rounds."""
        for _ in range(rounds):
            for run_id in pipelines.hand_out(self.database):
                self.advance(run_id)
            work(self.database)
            jobs.finish(self.database)


@pytest.fixture
def crew(database: Database, redis_url: str, tmp_path: Path) -> Iterator[Crew]:
    broker = Broker(redis_url)
    crew = Crew(database, broker, tmp_path)
    yield crew
    crew._threads.shutdown()
    broker.close()


@contextmanager
def writing_waits(monkeypatch: pytest.MonkeyPatch, mark: str | None = None) -> Iterator[threading.Event]:
    """Make the next export wait after its last row until the block ends. Yield an event that is set when it waits."""
    waits, go = threading.Event(), threading.Event()

    def slow(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        yield from rows
        if mark is not None:
            yield {"id": mark, "steps": {}, "flags": [], "meta": {}}
        waits.set()
        assert go.wait(60)

    def read_slowly(*arguments: Any) -> exports.Table:
        monkeypatch.setattr(running, "read_table", exports.read_table)
        table = exports.read_table(*arguments)
        return replace(table, rows=slow(table.rows))

    monkeypatch.setattr(running, "read_table", read_slowly)
    yield waits
    go.set()


def test_a_due_run_has_one_message_and_gets_another_if_it_is_lost(
    database: Database, own_redis: RedisServer, tmp_path: Path
) -> None:
    broker = Broker(own_redis.url)
    keep(database, tmp_path, "corpus.jsonl")
    fire(database)
    for _ in range(3):
        round_of_schedules(database, broker)
        hand_out_period_passes(database)
    assert broker.depth(RUN_LANE) == 1, "all workers may be busy for hours"
    with redis.Redis.from_url(own_redis.url) as server:
        server.flushall()
    round_of_schedules(database, broker)
    assert broker.depth(RUN_LANE) == 1
    broker.close()


def test_a_worker_that_lost_a_run_while_writing_leaves_the_other_workers_file(
    crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus.jsonl").write_bytes(LINES)
    keep(crew.database, tmp_path, "corpus.jsonl")
    run_id = fire(crew.database)
    crew.advance(run_id)
    work(crew.database)
    jobs.finish(crew.database)
    with writing_waits(monkeypatch, mark="of the one that slept") as waits:
        slept = crew.begin(run_id)
        assert waits.wait(60)
        crew.database.execute(update(PipelineRun).values(lease_until=db_now() - 1.0))
        crew.advance(run_id, "w2")
        assert run_of(crew.database, run_id).state == "done"
    slept.result(60)
    assert len(ids(tmp_path / "out.jsonl")) == N
    assert run_of(crew.database, run_id).state == "done"


def test_a_worker_that_stops_gives_the_run_back_at_once(crew: Crew, tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_bytes(LINES)
    keep(crew.database, tmp_path, "corpus.jsonl")
    run_id = fire(crew.database)
    assert pipelines.hand_out(crew.database) == [run_id]
    stop = threading.Event()
    stop.set()
    crew.advance(run_id, stop=stop)
    assert pipelines.hand_out(crew.database) == [run_id], "nobody has to wait for the lease"
    crew.advance(run_id, "w2")
    crew.do_all()
    assert (run_of(crew.database, run_id).state, count_rows(crew.database, Job)) == ("done", 1)
    assert len(ids(tmp_path / "out.jsonl")) == N


def cancel(database: Database) -> None:
    for job_id in database.values(select(Job.id)):
        jobs.cancel(database, job_id)


def remove(database: Database) -> None:
    cancel(database)
    if count_rows(database, Job):
        removal.remove_corpus(database, "nightly")


def collect(database: Database) -> None:
    gc.drop(database)
    gc.collect(database)


@pytest.mark.parametrize("act", [cancel, remove, collect])
@pytest.mark.parametrize("state", ["due", "reading", "running", "computed", "writing"])
def test_a_run_ends_and_the_next_starts_beside_cancel_removal_and_collection(
    crew: Crew,
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    act: Callable[[Database], None],
) -> None:
    keep(crew.database, tmp_path, f"{site.url}/corpus.jsonl")
    run_id, next_id = fire(crew.database), fire(crew.database, 2.0)
    if state == "due":
        act(crew.database)
    elif state == "reading":
        _while_reading(crew, site, run_id, act)
    else:
        crew.advance(run_id)
        if state != "running":
            work(crew.database)
            jobs.finish(crew.database)
        if state == "writing":
            with writing_waits(monkeypatch) as waits:
                writer = crew.begin(run_id)
                assert waits.wait(60)
                act(crew.database)
            writer.result(60)
        else:
            act(crew.database)
    crew.do_all()
    run = run_of(crew.database, run_id)
    ends_well = act is collect or state == "due" or (act is cancel and state in {"computed", "writing"})
    assert run.state == ("done" if ends_well else "failed"), run.reason
    assert ends_well or "was cancelled" in str(run.reason) or "was removed with its corpus" in str(run.reason)
    if act is collect:
        assert len(ids(tmp_path / "out.jsonl")) == N
    crew.do_all()
    assert run_of(crew.database, next_id).state == "done"
    assert len(ids(tmp_path / "out.jsonl")) == N


def _while_reading(crew: Crew, site: Site, run_id: int, act: Callable[[Database], None]) -> None:
    site.pause = threading.Event()
    reader = crew.begin(run_id)
    until(lambda: count_rows(crew.database, Job), "the job is there, and the source is not read to its end")
    act(crew.database)
    site.pause.set()
    reader.result(60)
    site.pause = None
