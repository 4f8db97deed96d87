"""A real SQLite store on virtual time, whose answers may be late or lost, and the laws that it has to obey.

`Laws.check` checks the laws after each write transaction.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import event

from docmill.storage import migrations
from docmill.storage.core.database import Database
from docmill.storage.core.invariants import Invariant, invariants
from docmill.storage.core.specs import StoredKind
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import DatabaseBusy, DatabaseUnreachable
from tests.simulation.scheduler import Scheduler, SimProcess

TRANSACTION_S = 0.01
JULIAN_1970 = 2_440_587.5


class Store:
    """A SQLite file. Each night begins with empty tables, and uses connections and statements of earlier nights."""

    def __init__(self, folder: Path, kinds: Mapping[str, StoredKind]) -> None:
        self.file = folder / "store.db"
        self.scheduler: Scheduler
        self.away: set[str] = set()  # hosts that cannot reach it
        self.busy = self.loses_answers = 0.0  # probabilities for each transaction
        self.database = Database(f"sqlite:///{self.file}", kinds=kinds)
        migrations.upgrade(self.database)
        engine = self.database.engine
        engine.dispose()
        event.listen(engine, "do_connect", lambda *arguments: arguments[-1].update(cached_statements=2_000))
        event.listen(engine, "connect", lambda connection, _: self._prepare(connection))
        engine.pool._pool.use_lifo = True  # type: ignore[attr-defined]
        self._own = sqlite3.connect(self.file, isolation_level=None, check_same_thread=False)
        self._prepare(self._own)
        self._tables = [name for (name,) in self._own.execute(_TABLES)]

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Replace SQLite's clock, which docmill uses, by the scheduler's time."""
        connection.create_function("julianday", 1, lambda _: JULIAN_1970 + self.scheduler.now / 86_400.0)
        connection.execute("PRAGMA synchronous=OFF")

    def begin(self, scheduler: Scheduler) -> None:
        """Empty the store, for a night of this scheduler."""
        self.scheduler = scheduler
        for table in self._tables:
            self._own.execute(f"DELETE FROM {table}")
        self.away, self.busy, self.loses_answers = set(), 0.0, 0.0
        self.laws = Laws(self._own, scheduler)

    def close(self) -> None:
        self._own.close()
        self.database.close()

    def database_of(self, process: SimProcess) -> Database:
        """Return the store as a process sees it."""
        return _SeenDatabase(self, process)


# Triggers count shards and work, so the counts go last.
_TABLES = """SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('alembic_version')
    AND name NOT LIKE 'sqlite%' ORDER BY name IN ('shard_count', 'work_count'), name"""


class _SeenDatabase(Database):
    """A process's connection: each transaction is an event of the scheduler."""

    def __init__(self, store: Store, process: SimProcess) -> None:
        self.__dict__.update(store.database.__dict__)
        self._store = store
        self._process = process

    @contextmanager
    def _transaction(self, *, docmill_write: bool) -> Iterator[Transaction]:
        store, scheduler = self._store, self._process.scheduler
        task = scheduler.current
        scheduler.pause(TRANSACTION_S)
        if self._process.host in store.away:
            raise DatabaseUnreachable("the store does not answer: the night's fault")
        if docmill_write and scheduler.rng.random() < store.busy:
            raise DatabaseBusy("the store is busy: the night's fault")
        task.writes = docmill_write
        try:
            with super()._transaction(docmill_write=docmill_write) as transaction:
                yield transaction
        finally:
            task.writes = False
        if docmill_write:
            store.laws.check(_caller())
            scheduler.pause(TRANSACTION_S)
            if scheduler.rng.random() < store.loses_answers:
                scheduler.note("the answer is lost")
                raise DatabaseBusy("the answer was lost: the night's fault")


def _caller() -> str:
    """Return the name of the function that made the current transaction."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename.endswith(("contextlib.py", "core/database.py", "simulation/store.py")):
        assert frame.f_back is not None
        frame = frame.f_back
    module = frame.f_globals["__name__"].removeprefix("docmill.")
    return f"{module}.{frame.f_code.co_qualname}"


class LawBroken(AssertionError):
    """The store is as it must never be."""


OPEN = ("planned", "queued", "running")
_MOVES = {
    ("planned", "queued"),
    ("queued", "planned"),
    ("queued", "running"),
    ("running", "planned"),
    ("running", "done"),
    ("running", "split"),
}


class ShardRow(NamedTuple):
    id: int
    job_id: int
    state: str
    fence: int
    owner: str | None
    suspect: int
    lapses: int
    lease_until: float | None
    n_contents: int
    n_ended: int


class OutcomeRow(NamedTuple):
    spec_id: int
    content_id: int
    status: str
    output: str | None
    reason: str | None
    kind: str
    text: str


class JobRow(NamedTuple):
    id: int
    state: str
    paused: bool
    finished_at: float | None


class RunRow(NamedTuple):
    id: int
    state: str
    fence: int
    owner: str | None
    job_id: int | None
    finished_at: float | None
    reason: str | None


_SHARDS = """SELECT id, job_id, state, fence, owner, suspect, lapses, lease_until, n_contents,
    n_done + n_failed + n_skipped FROM shard"""
_OUTCOMES = """SELECT spec_id, content_id, status, outcome.text, reason, spec.kind, content.text
    FROM outcome JOIN spec ON spec.id = spec_id JOIN content ON content.id = content_id"""
_JOBS = "SELECT id, state, paused, finished_at FROM job"
_RUNS = "SELECT id, state, fence, owner, job_id, finished_at, reason FROM pipeline_run"


class Laws:
    """Laws for the changes of a transaction to the store, by the claims and runs of the current task.

    The invariants of `docmill doctor --invariants` have to hold, too. Each transaction checks one of them in turn.
    """

    def __init__(self, connection: sqlite3.Connection, scheduler: Scheduler) -> None:
        self.connection = connection
        self._scheduler = scheduler
        self._invariants = invariants(None)
        self.shards: dict[int, ShardRow] = {}
        self.outcomes: dict[tuple[int, int], OutcomeRow] = {}
        self.jobs: dict[int, JobRow] = {}
        self.runs: dict[int, RunRow] = {}

    def check(self, caller: str) -> None:
        """Compare the store with its state before the transaction. Raise LawBroken if a law does not hold."""
        read = self.connection.execute
        read("BEGIN")
        shards = {row[0]: ShardRow(*row) for row in read(_SHARDS)}
        outcomes = {(row[0], row[1]): OutcomeRow(*row) for row in read(_OUTCOMES)}
        jobs = {row[0]: JobRow(*row) for row in read(_JOBS)}
        runs = {row[0]: RunRow(*row) for row in read(_RUNS)}
        changed = [row for shard_id, row in shards.items() if self.shards.get(shard_id) != row]
        moved = any(row.state != getattr(self.shards.get(row.id), "state", None) for row in changed)
        in_trace = moved or len(outcomes) != len(self.outcomes) or jobs != self.jobs or runs != self.runs
        shown_changes = " ".join(f"{row.id}:{row.state}/{row.fence}" for row in changed)
        self._scheduler.note(f"{caller} {shown_changes} {len(outcomes)} outcomes", in_trace=in_trace)
        try:
            for row in changed:
                self._check_shard(self.shards.get(row.id), row)
            for key, outcome in outcomes.items():
                if self.outcomes.get(key) != outcome:
                    self._check_outcome(self.outcomes.get(key), outcome)
            if gone := {*self.outcomes.keys() - outcomes.keys(), *self.shards.keys() - shards.keys()}:
                self._require(".deletion." in caller, f"{gone} are gone")
            for job in jobs.values():
                self._check_job(self.jobs.get(job.id), job)
            for run in runs.values():
                self._check_run(self.runs.get(run.id), run, caller)
            open_jobs = {row.job_id for row in shards.values() if row.state in OPEN}
            ended = {job.id for job in jobs.values() if job.state == "done"}
            self._require(not open_jobs & ended, f"done jobs {open_jobs & ended} have open shards")
            self._require_invariant(self._invariants[self._scheduler.events % len(self._invariants)])
        except LawBroken as broken:  # docmill's code might catch it, so the scheduler has to know
            self._scheduler.fail(f"after {caller}: {broken}")
            raise
        finally:
            read("COMMIT")
        self.shards, self.outcomes, self.jobs, self.runs = shards, outcomes, jobs, runs

    def _require(self, holds: bool, problem: str) -> None:
        if not holds:
            raise LawBroken(problem)

    def _check_shard(self, before: ShardRow | None, row: ShardRow) -> None:
        if row.state == "running":
            self._require(row.owner is not None and row.lease_until is not None, f"nobody holds {row}")
        if row.state == "done":
            self._require(row.n_ended == row.n_contents, f"counts differ from texts: {row}")
        if before is None:
            return
        moved = (before.state, row.state)
        self._require(before.state == row.state or moved in _MOVES, f"{before} becomes {row}")
        self._require(row.fence >= before.fence, f"the fence of {row} falls from {before.fence}")
        if moved == ("running", "running"):
            self._require(row.fence == before.fence, f"{before} is claimed while it is held: {row}")
        if moved in {("queued", "running"), ("running", "planned"), ("running", "split")}:
            self._require(row.fence == before.fence + 1, f"{before} becomes {row} under the same fence")
        if moved == ("running", "done") and row.owner is not None:
            self._require(self._holds(before), f"{self._claims} ends {before}, which it does not hold")
        if before.state == "done":
            self._require(row.fence == before.fence and row.n_ended == before.n_ended, f"{before} ends twice: {row}")

    @property
    def _claims(self) -> list[Any]:
        """The claims that the current task remembers."""
        memory = self._scheduler.current.memory
        own_claim = [memory["claim"]] if "claim" in memory else []
        return own_claim + [claim for claim, *_ in memory.get("finished", ())]

    def _holds(self, shard: ShardRow) -> bool:
        held = (shard.id, shard.fence, shard.owner)
        return any((claim.shard_id, claim.fence, claim.owner) == held for claim in self._claims)

    def _check_outcome(self, before: OutcomeRow | None, row: OutcomeRow) -> None:
        self._require(before is None or before.status == "failed", f"{before} is replaced by {row}")
        if row.status == "failed":
            self._require(bool(row.reason), f"{row} fails for no reason")
            return
        held = [self.shards.get(claim.shard_id) for claim in self._claims]
        self._require(
            any(shard is not None and shard.state == "running" and self._holds(shard) for shard in held),
            f"{self._claims} stores {row} of {held}, which it does not hold",
        )
        self._require(row.output == expected(row.kind, row.text), f"{row} is not the model's output")

    def _check_job(self, before: JobRow | None, row: JobRow) -> None:
        over = {"done", "cancelled", "stopped"}
        self._require((row.state in over) == (row.finished_at is not None), f"{row} is over, or is not")
        if before is not None:
            self._require(before.state != "cancelled" or row.state == "cancelled", f"{before} becomes {row}")

    def _check_run(self, before: RunRow | None, row: RunRow, caller: str) -> None:
        if before is None or before == row:
            return
        self._require(row.fence >= before.fence, f"the fence of {row} falls from {before.fence}")
        if before.finished_at is not None:
            self._require(before.state == row.state, f"{before} ends again: {row}")
        run = self._scheduler.current.memory.get("run")
        if caller.endswith("pipelines.note") and before.state != row.state:
            is_held = run is not None and (run.id, run.fence) == (before.id, before.fence)
            self._require(is_held, f"{run} notes {row}, which it does not hold")

    def check_invariants(self) -> None:
        """Raise LawBroken if an invariant of `docmill doctor --invariants` does not hold."""
        for invariant in self._invariants:
            self._require_invariant(invariant)

    def _require_invariant(self, invariant: Invariant) -> None:
        rows = self.connection.execute(invariant.query).fetchall()
        self._require(not rows, f"{invariant.name} does not hold: {invariant.sentence} {rows}")


def expected(kind: str, text: str) -> str:
    """Return the output of the night's model for a text."""
    return f"{kind} of {text}"
