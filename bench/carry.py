"""Measure the documents per second of queue, store and workers with a model that computes nothing.

The null backend computes nothing; everything else is real: Redis, PostgreSQL, supervisors and device processes. The
workers share the cores with both servers. A backlog of B documents is a job with that many in planned shards, which
are filled up again as they are worked off, so that a rate belongs to one depth of the backlog. Contents and
shards are made by SQL and not by an ingest, which `bench/ingest.py` measures.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
from sqlalchemy import func, select, text

from bench.pairs import Claim, Run, interleave, write
from bench.plots import Axes, draw
from bench.stores import fresh_postgres, own_redis
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Shard, Worker, db_now
from docmill.storage.core.specs import Spec
from docmill.storage.core.transaction import columns_of
from docmill.storage.steps import jobs
from docmill.storage.steps.jobs import JobRequest, OpenJob
from docmill.storage.steps.sharding import UNTOUCHED, pack
from docmill.storage.steps.steps import StepRequest
from docmill.tasks.kinds import STORED_KINDS as KINDS
from docmill.tasks.models import weightless

DOCMILL = str(Path(sys.executable).with_name("docmill"))
SHARD_TEXTS = KINDS["embed"].shard.contents
FILL_EVERY_S = 0.2
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Fleet:
    """A store with contents, and a queue."""

    database: Database
    database_url: str
    redis_url: str
    redis_pid: int
    folder: Path
    contents: int
    chars: int


class Backlog:
    """A job whose planned shards are kept at a number of documents; it goes through the contents once."""

    def __init__(self, fleet: Fleet, name: str, documents: int) -> None:
        self._mill = fleet
        self._documents = documents
        self._next = 1
        self._n_shards = 0
        # Each run has a spec of its own, under which nothing is known yet.
        spec = Spec("embed", weightless.NULL, weightless.NULL_REVISION, params={"window_tokens": 512, "run": name})
        self.job = jobs.open_job(
            fleet.database, JobRequest(corpus=name, source=name, steps=(StepRequest(spec.kind, spec),))
        )
        self.fill(done=0)

    def fill(self, done: int) -> None:
        """Plan as many shards as are `done`, while there are contents."""
        wanted = self._documents // SHARD_TEXTS + done - self._n_shards
        rows: list[dict[str, object]] = []
        while len(rows) < wanted and self._next + SHARD_TEXTS <= self._mill.contents + 1:
            rows.append(self._shard(self.job, range(self._next, self._next + SHARD_TEXTS)))
            self._next += SHARD_TEXTS
        if rows:
            self._n_shards += len(rows)
            self._mill.database.write(lambda c: c.load(Shard, columns_of(rows)))

    def _shard(self, job: OpenJob, content_ids: range) -> dict[str, object]:
        return UNTOUCHED | {
            "job_id": job.id,
            "spec_id": job.steps[0].spec_id,
            "lane": job.steps[0].lane,
            "state": "planned",
            "contents": pack(content_ids),
            "n_contents": len(content_ids),
            "n_chars": len(content_ids) * self._mill.chars,
        }

    def done(self) -> int:
        """Shards whose outcomes are committed."""
        with self._mill.database.read() as transaction:
            query = select(func.count()).where(Shard.job_id == self.job.id, Shard.state == "done")
            return transaction.scalar(query) or 0


def carry(fleet: Fleet, *, workers: int, documents: int, seconds: float) -> Run:
    """Documents of which the outcomes were committed in `seconds`, with so many workers on so deep a backlog."""
    with ExitStack() as stack:
        backlog = Backlog(fleet, f"{workers} {documents} {time.monotonic_ns()}", documents)
        processes = [stack.enter_context(_worker(fleet)) for _ in range(workers)]
        _until(lambda: _signed_on(fleet.database) == workers and backlog.done() >= 2 * workers, backlog)
        cpu = _cpu_s(fleet, processes)  # before the count: with many workers it takes a while, in which they go on
        before, began = backlog.done(), time.perf_counter()
        due = began
        while time.perf_counter() < began + seconds:
            due += FILL_EVERY_S
            backlog.fill(backlog.done())
            time.sleep(max(0.0, due - time.perf_counter()))
        carried = (backlog.done() - before) * SHARD_TEXTS
        took = time.perf_counter() - began
        spent = {name: after - cpu[name] for name, after in _cpu_s(fleet, processes).items()}
    _clear(fleet.database)
    shares = {f"cores_{name}": round(s / took, 2) for name, s in spent.items()}
    costs = {f"us_{name}": round(s / carried * 1e6, 1) for name, s in spent.items()} if carried else {}
    return Run(carried, took, {"workers": workers, "backlog": documents, **shares, **costs})


@contextmanager
def _worker(fleet: Fleet) -> Iterator[subprocess.Popen[bytes]]:
    settings = {
        "DOCMILL_HOME": str(fleet.folder / "home"),
        "DOCMILL_DATABASE_URL": fleet.database_url,
        "DOCMILL_REDIS_URL": fleet.redis_url,
    }
    with (fleet.folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [DOCMILL, "worker", "--lanes", "embed", "--device", "cpu"],
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=fleet.folder,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _until(condition: Callable[[], bool], backlog: Backlog) -> None:
    deadline = time.monotonic() + 300  # sixteen workers that load torch on two cores take two minutes
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("the workers did not come into their stride; see the log of the run's folder")
        backlog.fill(backlog.done())
        time.sleep(FILL_EVERY_S)


def _signed_on(database: Database) -> int:
    with database.read() as transaction:
        # Many on few cores are late with their signs of life.
        live = select(func.count()).select_from(Worker).where(Worker.seen_at > db_now() - 60)
        return transaction.scalar(live) or 0


def _cpu_s(fleet: Fleet, workers: Sequence[subprocess.Popen[bytes]]) -> dict[str, float]:
    """Seconds of CPU by station since the machine started; `bench` is this process, which fills the backlog."""
    supervisors = [worker.pid for worker in workers]
    devices = [pid for pid, (parent, _) in _processes().items() if parent in supervisors]
    with fleet.database.read() as transaction:
        backends = list(transaction.scalars(text("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")))
    times = os.times()
    running = _processes()

    def spent(pids: Sequence[int]) -> float:
        return sum(running.get(pid, (0, 0.0))[1] for pid in pids)

    return {
        "devices": spent(devices),
        "supervisors": spent(supervisors),
        "postgres": spent(backends),
        "redis": spent([fleet.redis_pid]),
        "bench": times.user + times.system,
    }


def _processes() -> dict[int, tuple[int, float]]:
    """The parent and the CPU seconds of every process."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(") ")[2].split()
        except OSError:  # it is gone
            continue
        found[int(stat.parent.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / TICK
    return found


def _fill_contents(database: Database, n: int, chars: int) -> None:
    """`n` different texts of so many characters in words."""
    words = f"rpad('Text number ' || i || ' ', {chars}, 'with words that nobody reads ')"
    database.write(
        lambda transaction: transaction.execute(
            text(
                "INSERT INTO content (id, sha256, text, n_chars) "
                f"SELECT i, sha256(convert_to(t, 'UTF8')), t, {chars} "
                f"FROM (SELECT i, {words} AS t FROM generate_series(1, {n}) AS i) AS texts"
            )
        )
    )
    _vacuum(database)


def _clear(database: Database) -> None:
    """No outcomes, shards and workers: each run begins alike."""
    database.write(
        lambda transaction: transaction.execute(text("TRUNCATE outcome, shard, worker, step, step_text CASCADE"))
    )
    database.write(lambda transaction: transaction.execute(text("UPDATE job SET state = 'cancelled'")))


def _vacuum(database: Database) -> None:
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backlog", type=int, default=10_000_000, help="the deep backlog, in documents")
    parser.add_argument("--shallow", type=int, default=10_000, help="the backlog that it is compared with")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--chars", type=int, default=250, help="characters of a document")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long a rate is measured")
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers and databases go
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(fresh_postgres())
        redis_url, redis_pid = stack.enter_context(own_redis(folder))
        database = Database(url, kinds=KINDS)
        stack.callback(database.close)
        fleet = Fleet(database, url, redis_url, redis_pid, folder, given.backlog + 1_000_000, given.chars)
        _fill_contents(database, fleet.contents, given.chars)
        side = partial(carry, fleet, seconds=given.seconds)
        deep = {
            f"{n} workers, {given.backlog:,} waiting": partial(side, workers=n, documents=given.backlog)
            for n in given.workers
        }
        compared = 4 if 4 in given.workers else given.workers[0]
        shallow = f"{compared} workers, {given.shallow:,} waiting"
        sides = {**deep, shallow: partial(side, workers=compared, documents=given.shallow)}
        found = interleave("null backend into PostgreSQL", "docs", sides, pairs=given.pairs, warm_up=0)
    claim = Claim("deep ÷ shallow backlog", f"{compared} workers, {given.backlog:,} waiting", shallow, 0.95)
    write("carry", [found], [[claim]], chars=given.chars, shard_texts=SHARD_TEXTS, seconds=given.seconds)
    curve = {float(n): found.median(side) for n, side in zip(given.workers, deep, strict=True)}
    title = f"Null model into PostgreSQL, {given.backlog:,} documents waiting, two cores"
    draw("carry", Axes(title, "workers", "documents a second"), {"docmill": curve})


if __name__ == "__main__":
    main()
