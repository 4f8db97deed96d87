"""Costs of the store's operations at 10⁵ to 10⁷ documents, and with a hundred workers, on PostgreSQL.

The rows are made by SQL. Each operation is measured in milliseconds of the server's CPU time and in shared blocks
(with `pg_stat_statements`), since the machine may have other work; wall-clock time is beside them.

    python -m bench.scale [--documents 100000,1000000] [--workers 100] [--parts curve,shards,shared,snapshot,watchers]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import psycopg
import redis

from bench.metrics import own_cpu_s
from bench.pairs import RESULTS
from bench.stores import fresh_postgres, own_redis
from docmill.storage.core.database import Database
from docmill.storage.core.lookups import runtime_id
from docmill.storage.core.specs import Outcome, Spec, Status
from docmill.storage.deletion import gc, retention
from docmill.storage.deletion.paging import RemovalBudget
from docmill.storage.ingest import ingest
from docmill.storage.ingest.chunks import CHUNK_RECORDS, ChunkBuilder
from docmill.storage.leases import dispatch, maintenance, shards
from docmill.storage.leases.dispatch import LaneWindow
from docmill.storage.results import counts, results
from docmill.storage.results.fleet import read_fleet
from docmill.storage.results.status import list_statuses, read_status
from docmill.storage.steps import jobs
from docmill.storage.steps.jobs import JobRequest
from docmill.storage.steps.steps import StepRequest
from docmill.tasks.kinds import STORED_KINDS as KINDS
from docmill.worker.jobs.follow import follow

SHARD = 256  # contents
LOOSE = 2_000  # contents that nothing needs
EXPORTED, READ = 50_000, 20_000  # documents
SWEPT = 1_000_000  # no larger corpus is swept, which takes minutes
LANE, DONE_JOB, RUNNING_JOB = "translate", 1, 2
RUNTIME = {"device": "cpu", "precision": "float32", "backend": "null", "versions": {}}
SPECS = tuple(Spec(LANE, "null", f"sha256:{n}") for n in (1, 2))

# Job 1 is done and has all outcomes. Job 2 has done half of its shards within the last hour.
FILL = (
    "INSERT INTO corpus (id, name, n_documents, created_at) VALUES (1, 'archive', {n}, 0)",
    """INSERT INTO ingest (id, corpus_id, source, options, state, n_records, n_new, n_changed, n_unchanged,
      n_repeated, n_rejected, started_at, seen_at, finished_at)
    SELECT j, 1, 'archive', '{{}}', 'read', {n}, {n}, 0, 0, 0, 0, 1, 1, 1 FROM generate_series(1, 2) j""",
    """INSERT INTO content (id, sha256, text, n_chars) SELECT d, sha256(convert_to(t, 'UTF8')), t, length(t)
    FROM (SELECT d, 'Document ' || d || ' of the archive, and some words more, for it has a text.' AS t
      FROM generate_series(1, {n} + {loose}) d) texts""",
    """INSERT INTO document (id, corpus_id, key, content_id, meta, flags, seq, ingest_id, gone)
    SELECT d, 1, 'document-' || d, d, '{{}}', '[]', d, 1, false FROM generate_series(1, {n}) d""",
    """INSERT INTO outcome (spec_id, content_id, status, text, flags, tokens_in, tokens_out, runtime_id, created_at)
    SELECT 1, d, 'done', 'The output for document ' || d, '[]', 20, 12, 1, extract(epoch FROM now()) - 7200
    FROM generate_series(1, {n}) d""",
    """INSERT INTO job (id, corpus_id, ingest_id, state, paused, priority, weight, base_document, swept_to,
      last_document, n_documents, created_at, finished_at)
    SELECT j, 1, j, CASE j WHEN 1 THEN 'done' ELSE 'running' END, false, 0, 1, 0, {n}, {n}, {n},
      extract(epoch FROM now()) - 86400, CASE j WHEN 1 THEN extract(epoch FROM now()) - 7200 END
    FROM generate_series(1, 2) j""",
    "INSERT INTO step (job_id, seq, name, spec_id) SELECT j, 0, 'step', j FROM generate_series(1, 2) j",
    """INSERT INTO shard (job_id, step, spec_id, lane, contents, n_contents, n_chars, state, redo, fence, attempt,
      suspect, owner, not_before, dispatched_at, started_at, finished_at, n_done, n_failed, n_skipped, n_truncated,
      tokens_in, tokens_out)
    SELECT j, 0, j, '{lane}', packed, {shard}, 80 * {shard}, CASE WHEN done THEN 'done' ELSE 'planned' END, false,
      done::int, done::int, 0, CASE WHEN done THEN 'worker-' || k % 40 END, 0, CASE WHEN done THEN at - 9 END,
      CASE WHEN done THEN at - 8 END, CASE WHEN done THEN at END, CASE WHEN done THEN {shard} ELSE 0 END, 0, 0, 0,
      CASE WHEN done THEN 20 * {shard} ELSE 0 END, CASE WHEN done THEN 12 * {shard} ELSE 0 END
    FROM (SELECT j, k, (k - 1) * {shard} AS first, j = 1 OR k <= {n} / {shard} / 2 AS done,
        extract(epoch FROM now()) - CASE j WHEN 1 THEN 7200 ELSE 3600.0 - 3600.0 * k / ({n} / {shard} / 2) END AS at
      FROM generate_series(1, 2) j, generate_series(1, {n} / {shard}) k) placed
    CROSS JOIN LATERAL (SELECT decode(string_agg(substr(h, 7, 2) || substr(h, 5, 2) || substr(h, 3, 2)
        || substr(h, 1, 2) || '00000000', '' ORDER BY d), 'hex') AS packed
      FROM generate_series(first + 1, first + {shard}) d
      CROSS JOIN LATERAL (SELECT lpad(to_hex(d), 8, '0') AS h) hexadecimal) contents""",
    """INSERT INTO worker (id, host, pid, device, lanes, slots, version, started_at, seen_at, consumed_at)
    SELECT 'worker-' || w, 'host-' || w / 4, 1000 + w, 'cuda:' || w % 4, '["{lane}"]', 8, '1.0', at, at, at
    FROM (SELECT w, extract(epoch FROM now()) + 86400 AS at FROM generate_series(0, 39) w) workers""",
)
_TEXTS = tuple(f"INSERT INTO {table} " for table in ("content", "document", "outcome"))
_NUMBERED = ("corpus", "ingest", "content", "document", "job", "shard")
# Shards of one content: only their number matters.
BACKLOG = """INSERT INTO shard (job_id, step, spec_id, lane, contents, n_contents, n_chars, state, redo, fence,
  attempt, suspect, not_before, n_done, n_failed, n_skipped, n_truncated, tokens_in, tokens_out)
SELECT {job}, 0, 1, '{lane}', decode('0100000000000000', 'hex'), 1, 80, 'planned', false, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
FROM generate_series(1, {n}) k"""


@dataclass(frozen=True)
class Cost:
    """The cost of one unit of an operation: server's CPU, client's CPU and wall-clock time in ms, and blocks."""

    operation: str
    unit: str
    units: int
    server_ms: float
    client_ms: float
    wall_ms: float
    blocks: float


class Meter:
    """Measures the server's work for one database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._raw = psycopg.connect(url, autocommit=True)
        self._pid = self._raw.info.backend_pid

    def close(self) -> None:
        self._raw.close()

    def value(self, statement: str) -> Any:
        row = self._raw.execute(statement).fetchone()
        assert row is not None
        return row[0]

    def server_s(self) -> float:
        """Return the CPU seconds of the database's server processes that live, without our own."""
        pids = self._raw.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
        ).fetchall()
        return sum(_cpu_s(pid) for (pid,) in pids if pid != self._pid)

    def blocks(self) -> int:
        """Return the blocks that statements looked at; 0 without `pg_stat_statements`."""
        try:
            return int(
                self.value(
                    """SELECT coalesce(sum(shared_blks_hit + shared_blks_read), 0) FROM pg_stat_statements
                    WHERE toplevel AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"""
                )
            )
        except psycopg.errors.UndefinedTable:
            return 0

    def measure(self, operation: str, work: Callable[[], int], unit: str = "call", times: int = 1) -> Cost:
        """Call `work`, which returns its units, so many times."""
        server, blocks, own, began = self.server_s(), self.blocks(), own_cpu_s(), time.perf_counter()
        units = sum(work() for _ in range(times))
        wall = time.perf_counter() - began
        server, own, wall = (
            round(s * 1e3 / max(1, units), 4) for s in (self.server_s() - server, own_cpu_s() - own, wall)
        )
        blocks_each = round((self.blocks() - blocks) / max(1, units), 2)
        cost = Cost(operation, unit, units, server, own, wall, blocks_each)
        print(cost, file=sys.stderr, flush=True)
        return cost


def _cpu_s(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError):
        return 0.0


@contextmanager
def filled(documents: int, *, shards_only: bool = False) -> Iterator[tuple[str, Database, Meter]]:
    """Yield a store with so many documents, or their shards alone: its URL, an opened database, and its meter."""
    with fresh_postgres() as url, psycopg.connect(url, autocommit=True) as raw:
        raw.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        database = Database(url, kinds=KINDS)
        for spec in SPECS:
            database.write(partial(_store_spec, spec))
        database.write(partial(runtime_id, runtime=RUNTIME))
        raw.execute("SET synchronous_commit = off")
        raw.execute("SET session_replication_role = replica")  # neither foreign keys nor counts row by row
        began = time.monotonic()
        for statement in FILL:
            if not (shards_only and statement.startswith(_TEXTS)):
                raw.execute(statement.format(n=documents, loose=LOOSE, lane=LANE, shard=SHARD))
        for table in _NUMBERED:
            raw.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT coalesce(max(id), 1) FROM {table}))"
            )
        counts.recount(database)
        raw.execute("VACUUM (ANALYZE)")
        raw.execute("CHECKPOINT")
        print(f"{documents:,} documents after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        meter = Meter(url)
        try:
            yield url, database, meter
        finally:
            meter.close()
            database.close()


def _store_spec(spec: Spec, transaction: Any) -> None:
    from docmill.storage.core import lookups

    lookups.spec_id(transaction, spec)


def curve(documents: int) -> list[Cost]:
    """Return the cost of each operation on a store with so many documents."""
    with filled(documents) as (_, database, meter):
        window = LaneWindow(LANE, 8, 0)
        taken: list[int] = []
        claims: list[shards.Claim] = []

        def take() -> int:
            taken.extend(chain(*dispatch.take(database, replace(window, slots=8 + (len(taken) + 1) // 2))))
            return 1

        def claim() -> int:
            head = shards.look(database, taken.pop(0))
            assert head is not None
            claimed = shards.claim(database, head, "worker-1")
            assert claimed is not None
            claims.append(claimed)
            return 1

        def heartbeat() -> int:
            assert shards.heartbeat(database, "worker-1")
            return 1

        def commit() -> int:
            shards.commit(database, claims[0], outputs(claims.pop(0), "out {}"), RUNTIME)
            return 1

        def read(job: int, after: int = 0) -> int:
            rows = results.placed_results(database, job, after=(after, after))
            return sum(1 for _ in islice(rows, EXPORTED if after else 1_000))

        # Not counted: the first calls load what a session keeps.
        take(), claim(), heartbeat(), commit(), read_status(database, RUNNING_JOB), jobs.finish(database)
        measure = meter.measure
        found = [
            measure("top-up of 16 shards", take, times=4),
            measure("claim", claim, "shard of 256", 40),
            measure("heartbeat of 40 shards", heartbeat, times=20),
            measure("commit", commit, "shard of 256", 40),
            measure("status, running job", lambda: _one(read_status(database, RUNNING_JOB)), times=10),
            measure("status, done job", lambda: _one(read_status(database, DONE_JOB)), times=10),
            measure("list of jobs", lambda: _one(list_statuses(database)), times=10),
            measure("metrics", lambda: _one(read_fleet(database, [LANE])), times=5),
            measure("end jobs", lambda: _one(jobs.finish(database)), times=20),
            measure("reclaim", lambda: _one(maintenance.reclaim(database)), times=20),
            measure("results, first page", partial(read, DONE_JOB), "document", 5),
            measure("export of 50,000", partial(read, DONE_JOB, documents // 3), "document"),
        ]
        found.append(measure("ingest of 20,000", partial(_read_in, database), "document"))
        if documents <= SWEPT:
            found.append(measure("sweep of the corpus", partial(_sweep, database, documents), "document"))
        budget = RemovalBudget.of(seconds=60)
        found.append(
            measure("retention: fold shards", lambda: retention.fold_shards(database, 60, budget).rows, "shard")
        )
        found.append(measure("gc: look at all, remove 2,000", partial(_collect, database, documents), "content"))
    return found


def of_shards(documents: int) -> list[Cost]:
    """Return the costs of operations that read shards alone, on a store with the shards of so many documents."""
    with filled(documents, shards_only=True) as (_, database, meter):
        read_status(database, RUNNING_JOB)
        measure = meter.measure
        return [
            measure("status, running job", lambda: _one(read_status(database, RUNNING_JOB)), times=10),
            measure("status, done job", lambda: _one(read_status(database, DONE_JOB)), times=10),
            measure("list of jobs", lambda: _one(list_statuses(database)), times=10),
            measure("end jobs", lambda: _one(jobs.finish(database)), times=20),
            measure("retention: fold shards", lambda: retention.fold_shards(database, 60).rows, "shard"),
        ]


def _one(_: object) -> int:
    return 1


def outputs(claim: shards.Claim, template: str) -> list[Outcome]:
    """Return an outcome for each text of a claim; the template may name the content."""
    return [
        Outcome(content_id, Status.DONE, text=template.format(content_id), tokens_in=20, tokens_out=12)
        for content_id, _ in claim.texts
    ]


def _read_in(database: Database) -> int:
    job = jobs.open_job(database, JobRequest("nightly", "nightly", (StepRequest("step", SPECS[0]),)))
    total = ingest.Counts()
    for first in range(0, READ, CHUNK_RECORDS):
        chunk = ChunkBuilder()
        for n in range(first, min(READ, first + CHUNK_RECORDS)):
            chunk.put(f"night-{n}", f"A new text of the night, number {n}, that nobody has read before.", {}, (), n)
        total += ingest.add(database, job, chunk.chunk())
    ingest.end(database, job, total)
    jobs.cancel(database, job.id)
    return READ


def _sweep(database: Database, documents: int) -> int:
    """Open a job on the whole corpus, whose results are there: it plans nothing."""
    job = jobs.open_job(database, JobRequest("archive", "again", (StepRequest("step", SPECS[0]),)))
    ingest.end(database, job, ingest.Counts())
    assert read_status(database, job.id).done == documents
    return documents


def _collect(database: Database, documents: int) -> int:
    assert gc.collect(database).contents == LOOSE
    return documents


# A hundred workers.


def shared(workers: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Return the rate and the waits of processes that claim and commit shards of one spec with two distinct outputs.

    A second step reads the outputs, so that each outcome refers to one of two contents.
    """
    with filled(20_000) as (url, database, meter), own_redis(folder) as (redis_url, _):
        second = StepRequest("second", Spec(LANE, "null", "sha256:4"), "first")
        steps = (StepRequest("first", Spec(LANE, "null", "sha256:3")), second)
        job = jobs.open_job(database, JobRequest("shared", "shared", steps))
        spec = job.steps[0].spec_id
        meter.value("SELECT pg_stat_reset_slru(NULL) IS NULL")
        with psycopg.connect(url, autocommit=True) as raw:
            texts = """INSERT INTO content (sha256, text, n_chars) SELECT sha256(convert_to(t, 'UTF8')), t, 40
              FROM (SELECT 'Text ' || d || ' of a shard' AS t FROM generate_series(1, 1000000) d) t"""
            raw.execute(texts)
            raw.execute(
                f"""INSERT INTO shard (job_id, step, spec_id, lane, contents, n_contents, n_chars, state, redo, fence,
                  attempt, suspect, not_before, n_done, n_failed, n_skipped, n_truncated, tokens_in, tokens_out)
                SELECT {job.id}, 0, {spec}, '{LANE}', decode(string_agg(substr(h, 7, 2) || substr(h, 5, 2)
                  || substr(h, 3, 2) || substr(h, 1, 2) || '00000000', '' ORDER BY id), 'hex'), count(*),
                  40 * count(*), 'planned', false, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
                FROM (SELECT id, lpad(to_hex(id), 8, '0') AS h FROM content WHERE id > 20000 + {LOOSE}) c
                GROUP BY id / 100"""
            )
            raw.execute("UPDATE job SET state = 'cancelled' WHERE id < 3")
            raw.execute("VACUUM ANALYZE")
            raw.execute("CHECKPOINT")
            multi = meter.value("SELECT next_multixact_id::text::bigint FROM pg_control_checkpoint()")
        seen: Counter[str] = Counter()
        server = 0.0
        with _workers(url, redis_url, workers) as done:
            client = redis.Redis.from_url(redis_url)
            _feed(database, client, workers, lambda: done.value < 2 * workers)
            first, began, server = done.value, time.perf_counter(), meter.server_s()
            _feed(
                database, client, workers, lambda: time.perf_counter() < began + seconds, partial(_waits, meter, seen)
            )
            n, took = done.value - first, time.perf_counter() - began
            server = meter.server_s() - server
        with psycopg.connect(url, autocommit=True) as raw:
            raw.execute("CHECKPOINT")
        multi = meter.value("SELECT next_multixact_id::text::bigint FROM pg_control_checkpoint()") - multi
        slru = {
            name: int(meter.value(f"SELECT blks_hit + blks_read FROM pg_stat_slru WHERE name = '{name}'"))
            for name in ("MultiXactMember", "MultiXactOffset")
        }
    total = max(1, seen.total())
    return {
        "workers": workers,
        "shards of 100": n,
        "shards/s": round(n / took, 1),
        "server ms a shard": round(server / max(1, n) * 1e3, 2),
        "multixacts a shard": round(multi / max(1, n), 2),
        "SLRU look-ups a shard": {name: round(value / max(1, n), 1) for name, value in slru.items()},
        "backends by wait, %": {name: round(100 * k / total, 1) for name, k in seen.most_common(8)},
    }


def _waits(meter: Meter, seen: Counter[str]) -> None:
    rows = meter._raw.execute(
        """SELECT coalesce(wait_event_type || ':' || wait_event, 'CPU'), count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid() GROUP BY 1"""
    )
    seen.update(dict(rows.fetchall()))


def _feed(
    database: Database,
    client: Any,
    workers: int,
    goes_on: Callable[[], bool],
    look: Callable[[], None] = lambda: None,
) -> None:
    """Dispatch shards to the workers for as long as that holds."""
    while goes_on():
        if client.llen("hints") < 2 * workers:
            [lane] = dispatch.lanes(database, LANE)
            if taken := [*chain(*dispatch.take(database, replace(lane, slots=2 * workers)))]:
                client.lpush("hints", *taken)
        look()
        time.sleep(0.05)


@contextmanager
def _workers(url: str, redis_url: str, n: int) -> Iterator[Any]:
    """Run so many processes, which share the libraries; yield the number of shards that they committed."""
    forked = multiprocessing.get_context("fork")
    done = forked.Value("q", 0)
    end = forked.Event()
    processes = [
        forked.Process(target=_work, args=(url, redis_url, f"light-{k}", done, end), daemon=True) for k in range(n)
    ]
    for process in processes:
        process.start()
    try:
        yield done
    finally:
        end.set()
        for process in processes:
            process.join(20)
            process.kill()


def _work(url: str, redis_url: str, owner: str, done: Any, end: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    database = Database(url, kinds=KINDS, pool_size=1)
    client = redis.Redis.from_url(redis_url)
    beat = 0.0
    while not end.is_set():
        if (hint := client.brpop("hints", timeout=1)) is None:
            continue
        if (head := shards.look(database, int(hint[1]))) is None:
            continue
        if (claim := shards.claim(database, head, owner)) is None:
            continue
        if time.monotonic() > beat:
            beat = time.monotonic() + 5
            shards.heartbeat(database, owner)
        shards.commit(database, claim, [_of_two(outcome) for outcome in outputs(claim, "{}")], RUNTIME)
        with done.get_lock():
            done.value += 1


def _of_two(outcome: Outcome) -> Outcome:
    return replace(outcome, text=("yes", "no")[outcome.content_id % 2])


# A held snapshot.

# As dispatching, claiming and committing change a shard, a transaction each.
PASS = """DO $$ DECLARE s bigint; t float8; BEGIN
FOR s IN SELECT id FROM shard WHERE job_id = {job} AND state = 'planned' ORDER BY id LIMIT {n} LOOP
  t := extract(epoch FROM clock_timestamp());
  UPDATE shard SET state = 'queued', dispatched_at = t WHERE id = s; COMMIT;
  UPDATE shard SET state = 'running', fence = 1, attempt = 1, owner = 'w', lease_until = 9e9, started_at = t
    WHERE id = s; COMMIT;
  UPDATE shard SET state = 'done', lease_until = NULL, finished_at = t, n_done = 1, tokens_in = 20
    WHERE id = s; COMMIT;
END LOOP; END $$"""


def snapshot(backlog: int, passed: Sequence[int]) -> list[dict[str, Any]]:
    """Return the costs beside a backlog without and with a held snapshot, after numbers of shards have passed."""
    rows = []
    for held in (False, True):
        with filled(20_000) as (url, database, meter), psycopg.connect(url, autocommit=True) as raw:
            raw.execute("UPDATE job SET state = 'cancelled' WHERE id < 3")
            job = jobs.open_job(database, JobRequest("open", "open", (StepRequest("step", SPECS[0]),)))
            raw.execute(BACKLOG.format(job=job.id, n=backlog, lane=LANE))
            raw.execute("VACUUM ANALYZE")
            raw.execute("SET synchronous_commit = off")
            with ExitStack() as stack:
                if held:
                    holder = stack.enter_context(psycopg.connect(url))
                    holder.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                    holder.execute("SELECT count(*) FROM job")
                before = 0
                for n in passed:
                    if n > before:
                        raw.execute(PASS.format(job=job.id, n=n - before))
                        before = n
                    rows.append({"snapshot": held, "passed": n, **_beside(database, meter)})
                    print(rows[-1], file=sys.stderr, flush=True)
    return rows


_PASS_QUEUED = "WITH passed AS (UPDATE shard SET state = 'done' WHERE state = 'queued' RETURNING id) SELECT 1"


def _beside(database: Database, meter: Meter) -> dict[str, float]:
    taken: list[int] = []

    def take(only: str | None = LANE) -> int:
        [lane] = dispatch.lanes(database, only)
        taken.extend(chain(*dispatch.take(database, replace(lane, slots=8))))
        return 1

    def claim() -> int:
        head = shards.look(database, taken.pop(0))
        assert head is not None
        claimed = shards.claim(database, head, "w")
        assert claimed is not None
        shards.release(database, claimed)
        return 1

    take()
    meter.value(_PASS_QUEUED)
    taken.clear()
    top_up = meter.measure("top-up", take)
    claims = meter.measure("claim and release", claim, times=8)
    metrics = meter.measure("metrics", lambda: _one(read_fleet(database, [LANE])), times=3)
    meter.value(_PASS_QUEUED)
    from_start = meter.measure("top-up of maintenance", partial(take, None))
    meter.value(_PASS_QUEUED)
    return {
        "top-up server ms": top_up.server_ms,
        "top-up blocks": top_up.blocks,
        "maintenance's top-up server ms": from_start.server_ms,
        "maintenance's top-up blocks": from_start.blocks,
        "claim server ms": claims.server_ms,
        "metrics server ms": metrics.server_ms,
        "metrics blocks": metrics.blocks,
    }


# People who watch.


def watchers(documents: int, people: int, seconds: float) -> dict[str, Any]:
    """Return the load of people who watch one job: of the server's cores, and of looks per second."""
    with filled(documents, shards_only=True) as (url, _, meter):
        forked = multiprocessing.get_context("fork")
        end, looks = forked.Event(), forked.Value("q", 0)
        watching = forked.Process(target=_watch, args=(url, people, end, looks), daemon=True)
        watching.start()
        while looks.value < people:
            time.sleep(0.1)
        first, began, server = looks.value, time.perf_counter(), meter.server_s()
        time.sleep(seconds)
        n, took, server = looks.value - first, time.perf_counter() - began, meter.server_s() - server
        end.set()
        watching.join(30)
        watching.kill()
    return {
        "documents": documents,
        "people": people,
        "looks/s": round(n / took, 1),
        "server ms a look": round(server / max(1, n) * 1e3, 2),
        "cores of the server": round(server / took, 2),
    }


def _watch(url: str, people: int, end: Any, looks: Any) -> None:
    database = Database(url, kinds=KINDS, pool_size=people)

    def wait(seconds: float) -> None:
        with looks.get_lock():
            looks.value += 1
        if end.wait(seconds):
            raise SystemExit

    def watch() -> None:
        time.sleep(random.random())
        follow(database, RUNNING_JOB, wait=wait)

    threads = [threading.Thread(target=watch, daemon=True) for _ in range(people)]
    for thread in threads:
        thread.start()
    end.wait()
    time.sleep(1)
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", default="100000,1000000", help="sizes, with a comma between")
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--backlog", type=int, default=1_600_000, help="open shards beside the snapshot")
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--parts", default="curve,shared,snapshot,watchers")
    parser.add_argument("--write", metavar="NAME", help="write bench/results/NAME.json")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers and databases go
    sizes, parts = [int(size) for size in given.documents.split(",")], given.parts.split(",")
    facts: dict[str, Any] = {"load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "curve" in parts:
            facts["curve"] = {size: [asdict(cost) for cost in curve(size)] for size in sizes}
        if "shards" in parts:
            facts["shards"] = {size: [asdict(cost) for cost in of_shards(size)] for size in sizes}
        if "shared" in parts:
            facts["shared"] = [shared(n, given.seconds, folder) for n in (4, given.workers)]
        if "snapshot" in parts:
            facts["snapshot"] = snapshot(given.backlog, (0, 25_000, 100_000))
        if "watchers" in parts:
            facts["watchers"] = [watchers(size, given.people, given.seconds) for size in sizes]
    print(json.dumps(facts, indent=1))
    if given.write:
        (RESULTS / f"{given.write}.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
