"""Measure the documents per second of queue, store and workers with a model that computes nothing.

Only the backend is a null backend. Redis, PostgreSQL, supervisors and device processes are real, and the workers
share the cores with both servers. A backlog of B documents is a job whose planned shards have B documents. New shards
are planned as workers finish others, so the backlog keeps its size while a rate is measured. SQL inserts contents and
shards directly: `bench/ingest.py` measures ingests.
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
class Installation:
    """A store with contents of `chars` characters each, and a queue."""

    database: Database
    database_url: str
    redis_url: str
    redis_pid: int
    folder: Path
    contents: int
    chars: int


class Backlog:
    """A job whose planned shards always have so many documents. It uses each content once."""

    def __init__(self, installation: Installation, name: str, documents: int) -> None:
        self._installation = installation
        self._documents = documents
        self._next_content = 1
        self._n_shards = 0
        # Each run has a spec of its own, so that no outcome is reused.
        spec = Spec("embed", weightless.NULL, weightless.NULL_REVISION, params={"window_tokens": 512, "run": name})
        self.job = jobs.open_job(
            installation.database, JobRequest(corpus=name, source=name, steps=(StepRequest(spec.kind, spec),))
        )
        self.fill(done=0)

    def fill(self, done: int) -> None:
        """Plan shards until the backlog has its size again without `done` shards, or no contents are left."""
        lacking = self._documents // SHARD_TEXTS + done - self._n_shards
        rows: list[dict[str, object]] = []
        while len(rows) < lacking and self._next_content + SHARD_TEXTS <= self._installation.contents + 1:
            rows.append(self._plan_shard(self.job, range(self._next_content, self._next_content + SHARD_TEXTS)))
            self._next_content += SHARD_TEXTS
        if rows:
            self._n_shards += len(rows)
            self._installation.database.write(lambda transaction: transaction.load(Shard, columns_of(rows)))

    def _plan_shard(self, job: OpenJob, content_ids: range) -> dict[str, object]:
        return UNTOUCHED | {
            "job_id": job.id,
            "spec_id": job.steps[0].spec_id,
            "lane": job.steps[0].lane,
            "state": "planned",
            "contents": pack(content_ids),
            "n_contents": len(content_ids),
            "n_chars": len(content_ids) * self._installation.chars,
        }

    def count_done(self) -> int:
        """Return the number of shards whose outcomes are committed."""
        with self._installation.database.read() as transaction:
            query = select(func.count()).where(Shard.job_id == self.job.id, Shard.state == "done")
            return transaction.scalar(query) or 0


def measure(installation: Installation, *, workers: int, documents: int, seconds: float) -> Run:
    """Measure for so many seconds. Return a run whose units are the documents whose outcomes were committed.

    `workers` is the number of workers, and `documents` the size of the backlog.
    """
    with ExitStack() as stack:
        backlog = Backlog(installation, f"{workers} {documents} {time.monotonic_ns()}", documents)
        processes = [stack.enter_context(_run_worker(installation)) for _ in range(workers)]
        _wait_until(
            lambda: _count_live(installation.database) == workers and backlog.count_done() >= 2 * workers, backlog
        )
        # Before the count of shards, since many workers finish some while their CPU seconds are read.
        cpu_s_before = _read_cpu_s(installation, processes)
        done_before, began = backlog.count_done(), time.perf_counter()
        due = began
        while time.perf_counter() < began + seconds:
            due += FILL_EVERY_S
            backlog.fill(backlog.count_done())
            time.sleep(max(0.0, due - time.perf_counter()))
        committed = (backlog.count_done() - done_before) * SHARD_TEXTS
        elapsed_s = time.perf_counter() - began
        cpu_s_after = _read_cpu_s(installation, processes)
        cpu_s = {name: after_s - cpu_s_before[name] for name, after_s in cpu_s_after.items()}
    _clear(installation.database)
    shares = {f"cores_{name}": round(used_s / elapsed_s, 2) for name, used_s in cpu_s.items()}
    costs = {f"us_{name}": round(used_s / committed * 1e6, 1) for name, used_s in cpu_s.items()} if committed else {}
    return Run(committed, elapsed_s, {"workers": workers, "backlog": documents, **shares, **costs})


@contextmanager
def _run_worker(installation: Installation) -> Iterator[subprocess.Popen[bytes]]:
    settings = {
        "DOCMILL_HOME": str(installation.folder / "home"),
        "DOCMILL_DATABASE_URL": installation.database_url,
        "DOCMILL_REDIS_URL": installation.redis_url,
    }
    with (installation.folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [DOCMILL, "worker", "--lanes", "embed", "--device", "cpu"],
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=installation.folder,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _wait_until(condition: Callable[[], bool], backlog: Backlog) -> None:
    deadline = time.monotonic() + 300  # on two cores, sixteen workers take two minutes to load torch
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("the workers did not all start to commit outcomes; see worker.log in the run's folder")
        backlog.fill(backlog.count_done())
        time.sleep(FILL_EVERY_S)


def _count_live(database: Database) -> int:
    with database.read() as transaction:
        # Heartbeats are late if many workers share few cores.
        live = select(func.count()).select_from(Worker).where(Worker.seen_at > db_now() - 60)
        return transaction.scalar(live) or 0


def _read_cpu_s(installation: Installation, workers: Sequence[subprocess.Popen[bytes]]) -> dict[str, float]:
    """Return the CPU seconds that each kind of process has used so far.

    `bench` is this process, which fills the backlog.
    """
    supervisors = [worker.pid for worker in workers]
    devices = [pid for pid, (parent, _) in _read_processes().items() if parent in supervisors]
    with installation.database.read() as transaction:
        backends = list(transaction.scalars(text("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")))
    times = os.times()
    processes = _read_processes()

    def sum_cpu_s(pids: Sequence[int]) -> float:
        return sum(processes.get(pid, (0, 0.0))[1] for pid in pids)

    return {
        "devices": sum_cpu_s(devices),
        "supervisors": sum_cpu_s(supervisors),
        "postgres": sum_cpu_s(backends),
        "redis": sum_cpu_s([installation.redis_pid]),
        "bench": times.user + times.system,
    }


def _read_processes() -> dict[int, tuple[int, float]]:
    """Return the parent and the CPU seconds of every process, by process id."""
    processes = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(") ")[2].split()
        except OSError:  # the process has ended
            continue
        processes[int(stat.parent.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / TICK
    return processes


def _fill_contents(database: Database, n: int, chars: int) -> None:
    """Insert `n` different texts of `chars` characters."""
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
    """Delete all outcomes, shards and workers, so that each run starts from the same state."""
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
    parser.add_argument("--shallow", type=int, default=10_000, help="the shallow backlog, in documents")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--chars", type=int, default=250, help="characters of a document")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long a rate is measured")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers stop and databases are dropped
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(fresh_postgres())
        redis_url, redis_pid = stack.enter_context(own_redis(folder))
        database = Database(url, kinds=KINDS)
        stack.callback(database.close)
        contents = options.backlog + 1_000_000
        installation = Installation(database, url, redis_url, redis_pid, folder, contents, options.chars)
        _fill_contents(database, contents, options.chars)
        measure_side = partial(measure, installation, seconds=options.seconds)
        deep = {
            f"{n} workers, {options.backlog:,} waiting": partial(measure_side, workers=n, documents=options.backlog)
            for n in options.workers
        }
        compared_workers = 4 if 4 in options.workers else options.workers[0]
        shallow = f"{compared_workers} workers, {options.shallow:,} waiting"
        sides = {**deep, shallow: partial(measure_side, workers=compared_workers, documents=options.shallow)}
        comparison = interleave("null backend into PostgreSQL", "docs", sides, pairs=options.pairs, warm_up=0)
    deep_side = f"{compared_workers} workers, {options.backlog:,} waiting"
    claim = Claim("deep ÷ shallow backlog", deep_side, shallow, 0.95)
    write("carry", [comparison], [[claim]], chars=options.chars, shard_texts=SHARD_TEXTS, seconds=options.seconds)
    curve = {float(n): comparison.median(side) for n, side in zip(options.workers, deep, strict=True)}
    title = f"Null model into PostgreSQL, {options.backlog:,} documents waiting, two cores"
    draw("carry", Axes(title, "workers", "documents a second"), {"docmill": curve})


if __name__ == "__main__":
    main()
