"""A fleet for tests of faults: its jobs use a model that computes nothing, at a given pace."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.engine import make_url

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Job, OutcomeRow, Shard, db_now
from docmill.storage.core.schema import Worker as WorkerRow
from docmill.storage.results.status import JobStatus
from docmill.storage.steps import jobs
from docmill.worker.queue.broker import Broker
from docmill.worker.settings import load_settings
from docmill.worker.submit.enqueue import Enqueued, enqueue
from docmill.worker.submit.options import Request
from docmill.worker.submit.request import prepare
from tests.fault_points import FAULT, STRUCK
from tests.faults.checker import check
from tests.worker.harness import DEADLINE_S, Docmill, Running, kill_group, until

LEASE_S = 3.0
THREADS = 3  # so that little work keeps all of them busy
UPKEEP_S = 0.5
SHARD_TEXTS = 64  # of a translation, where texts are short
WORDS = 8


def numbered(n: int, first: int = 0) -> list[str]:
    """Return `n` different texts of 8 words."""
    return [f"Text number {i} has eight words or so." for i in range(first, first + n)]


class Fleet(Docmill):
    """The command with short leases, and quicker ways to do the same within the test's process."""

    def __init__(self, folder: Path, database: Database, redis_url: str | None, **settings: Any) -> None:
        self.database = database
        self.redis_url = redis_url
        self._corpora = itertools.count()
        values = {"lease_s": LEASE_S, "upkeep_s": UPKEEP_S, "threads": THREADS, "log_level": "info", **settings}
        values["database_url"] = database.url.render_as_string(hide_password=False)
        if redis_url is not None:
            values["redis_url"] = redis_url
        # What is given as None has docmill's own default.
        variables = {f"DOCMILL_{name.upper()}": str(value) for name, value in values.items() if value is not None}
        super().__init__(folder, variables)
        self.loads_models = False

    def broker(self) -> Broker:
        assert self.redis_url is not None
        return Broker(self.redis_url)

    def patch(self, code: str) -> None:
        """Make every process of docmill run this code as it starts."""
        site = self.folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(code)
        self.environment["PYTHONPATH"] = f"{site}{os.pathsep}{self.environment.get('PYTHONPATH', '')}"

    def corpus(self, texts: Iterable[str], name: str = "corpus.jsonl") -> Path:
        """Write a file with a record for each text, numbered from 0, and return its path."""
        path = self.folder / name
        lines = (json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(texts))
        path.write_text("".join(lines))
        return path

    def give(self, texts: Sequence[str], *, task: str = "translate", model: str = "null@4000", **more: Any) -> int:
        """Enqueue these texts as a corpus of their own, and return the job's number."""
        path = self.corpus(texts, f"corpus-{next(self._corpora)}.jsonl")
        return self.enqueued(Request(source=str(path), task=task, model=model, **more)).id

    def enqueued(self, request: Request) -> Enqueued:
        prepared = prepare(load_settings(home=self.folder / "home"), request)
        with nullcontext() if self.redis_url is None else closing(self.broker()) as broker:
            return enqueue(self.database, broker, prepared)

    @contextmanager
    def worker(self, *options: str, fault: str | None = None, **settings: Any) -> Iterator[Running]:
        """Start a worker for the length of the block, with a fault and settings of its own, then quit it."""
        process = self.start_worker(*options, fault=fault, **settings)
        try:
            yield process
            if process.poll() is None:
                process.send_signal(signal.SIGQUIT)
                assert process.wait(60) == 0, self.log("worker")
        finally:
            if process.poll() is None:
                kill_group(process)

    def start_worker(self, *options: str, fault: str | None = None, **settings: Any) -> Running:
        variables = {f"DOCMILL_{name.upper()}": str(value) for name, value in settings.items()}
        with self.variables(**variables, **({} if fault is None else {FAULT: fault})):
            return self.start("worker", *options)

    def strikes(self) -> list[str]:
        """Return a line for each time that the fault struck."""
        struck = self.folder / "home" / STRUCK
        return struck.read_text().splitlines() if struck.exists() else []

    def release(self) -> None:
        """Let processes continue that a fault with the action `hang` holds."""
        (self.folder / "home" / STRUCK).write_text("")

    def shards(self, *columns: Any) -> list[Any]:
        return [*self.database.rows(select(*(columns or (Shard,))).select_from(Shard).order_by(Shard.id))]

    def states(self) -> Counter[str]:
        return Counter(row.state for row in self.shards(Shard.state))

    def set_shards(self, **values: Any) -> None:
        """Update all shards, for instance to move their times."""
        self.database.execute(update(Shard).values(**values))

    def end_grace(self) -> None:
        """Let hints that are gone count as lost, as they do after half a minute."""
        self.set_shards(dispatched_at=Shard.dispatched_at - 60)

    def wait_until_busy(self) -> None:
        until(lambda: self.states()["running"] == THREADS, "every thread has a shard")

    def set_database_url(self, **parts: Any) -> None:
        """Change parts of the URL that docmill's processes have. The test itself keeps its own connections."""
        url = make_url(self.environment["DOCMILL_DATABASE_URL"]).set(**parts)
        self.environment["DOCMILL_DATABASE_URL"] = url.render_as_string(hide_password=False)

    def move_to_another_machine(self) -> None:
        """Mark all workers as being on a machine whose processes this one cannot see."""
        self.database.execute(update(WorkerRow).values(pid_space="elsewhere"))

    def owners(self) -> set[str]:
        """Return the owners of running shards."""
        return {row.owner for row in self.shards(Shard.state, Shard.owner) if row.state == "running"}

    def lapsed(self) -> int:
        """Return the number of running shards whose lease has lapsed."""
        query = select(func.count()).where(Shard.state == "running", Shard.lease_until < db_now())
        return self.database.value(query) or 0

    def live(self) -> dict[str, int]:
        """Return the process ids of the workers that signed on, by their ids."""
        return {row.id: row.pid for row in self.database.rows(select(WorkerRow.id, WorkerRow.pid))}

    def outcomes(self) -> Counter[str]:
        query = select(OutcomeRow.status, func.count().label("n")).group_by(OutcomeRow.status)
        return Counter({row.status: row.n for row in self.database.rows(query)})

    def state(self, job: int) -> str:
        [state] = self.database.values(select(Job.state).where(Job.id == job))
        return state

    def finish(self, job: int, within_s: float = DEADLINE_S, *, state: str = "done") -> JobStatus:
        """Wait until a job ends, check the store, and return the job's status."""

        def has_ended() -> bool:
            jobs.finish(self.database, job)
            return self.state(job) not in {"ingesting", "running"}

        until(has_ended, f"job {job} ends", within_s)
        return check(self.database, job, state=state)
