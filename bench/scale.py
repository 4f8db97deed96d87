"""Measure the cost of the store's operations at 10⁵ to 10⁷ documents, and with a hundred workers, on PostgreSQL.

SQL makes the rows. An operation's cost is the server's CPU time in milliseconds and the number of shared blocks (from
`pg_stat_statements`), since the machine may be busy. The wall-clock time stands beside them.

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
from docmill.storage.core.lookups import runtime_id, spec_id
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
UNREFERENCED = 2_000  # contents
EXPORTED, INGESTED = 50_000, 20_000  # documents
LARGEST_SWEPT = 1_000_000  # documents: the sweep of a larger corpus takes minutes
LANE, DONE_JOB, RUNNING_JOB = "translate", 1, 2
RUNTIME = {"device": "cpu", "precision": "float32", "backend": "null", "versions": {}}
SPECS = tuple(Spec(LANE, "null", f"sha256:{n}") for n in (1, 2))

# Job 1 is done and has all outcomes. Job 2 is running and finished half of its shards within the last hour.
FILL = (
    "INSERT INTO corpus (id, name, n_documents, created_at) VALUES (1, 'archive', {n}, 0)",
    """INSERT INTO ingest (id, corpus_id, source, options, state, n_records, n_new, n_changed, n_unchanged,
      n_repeated, n_rejected, started_at, seen_at, finished_at)
    SELECT j, 1, 'archive', '{{}}', 'read', {n}, {n}, 0, 0, 0, 0, 1, 1, 1 FROM generate_series(1, 2) j""",
    """INSERT INTO content (id, sha256, text, n_chars) SELECT d, sha256(convert_to(t, 'UTF8')), t, length(t)
    FROM (SELECT d, 'Document ' || d || ' of the archive, and some words more, for it has a text.' AS t
      FROM generate_series(1, {n} + {unreferenced}) d) texts""",
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
_TEXT_INSERTS = tuple(f"INSERT INTO {table} " for table in ("content", "document", "outcome"))
_TABLES_WITH_IDS = ("corpus", "ingest", "content", "document", "job", "shard")
# The shards have one content each, since only the number of shards matters.
BACKLOG = """INSERT INTO shard (job_id, step, spec_id, lane, contents, n_contents, n_chars, state, redo, fence,
  attempt, suspect, not_before, n_done, n_failed, n_skipped, n_truncated, tokens_in, tokens_out)
SELECT {job}, 0, 1, '{lane}', decode('0100000000000000', 'hex'), 1, 80, 'planned', false, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
FROM generate_series(1, {n}) k"""
NEXT_MULTIXACT = "SELECT next_multixact_id::text::bigint FROM pg_control_checkpoint()"


@dataclass(frozen=True)
class Cost:
    """The cost of a unit of an operation: CPU time of server and client, wall-clock time, and blocks read."""

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
        self.connection = psycopg.connect(url, autocommit=True)
        self._pid = self.connection.info.backend_pid

    def close(self) -> None:
        self.connection.close()

    def read_value(self, statement: str) -> Any:
        """Return the first column of the statement's first row."""
        row = self.connection.execute(statement).fetchone()
        assert row is not None
        return row[0]

    def read_server_s(self) -> float:
        """Return the CPU seconds of the database's living server processes, except this connection's."""
        pids = self.connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
        ).fetchall()
        return sum(_read_cpu_s(pid) for (pid,) in pids if pid != self._pid)

    def count_blocks(self) -> int:
        """Return the number of blocks that statements have read so far, or 0 without `pg_stat_statements`."""
        try:
            return int(
                self.read_value(
                    """SELECT coalesce(sum(shared_blks_hit + shared_blks_read), 0) FROM pg_stat_statements
                    WHERE toplevel AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"""
                )
            )
        except psycopg.errors.UndefinedTable:
            return 0

    def measure(self, operation: str, work: Callable[[], int], unit: str = "call", times: int = 1) -> Cost:
        """Call `work`, which returns the number of its units, `times` times, and return the cost of a unit."""
        server_s, blocks = self.read_server_s(), self.count_blocks()
        client_s, began = own_cpu_s(), time.perf_counter()
        units = sum(work() for _ in range(times))
        wall_s = time.perf_counter() - began
        server_ms, client_ms, wall_ms = (
            round(seconds * 1e3 / max(1, units), 4)
            for seconds in (self.read_server_s() - server_s, own_cpu_s() - client_s, wall_s)
        )
        blocks_each = round((self.count_blocks() - blocks) / max(1, units), 2)
        cost = Cost(operation, unit, units, server_ms, client_ms, wall_ms, blocks_each)
        print(cost, file=sys.stderr, flush=True)
        return cost


def _read_cpu_s(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError):
        return 0.0


@contextmanager
def filled_store(documents: int, *, shards_only: bool = False) -> Iterator[tuple[str, Database, Meter]]:
    """Yield the URL, the opened database and the meter of a store with so many documents, or their shards alone."""
    with fresh_postgres() as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        database = Database(url, kinds=KINDS)
        for spec in SPECS:
            database.write(partial(spec_id, spec=spec))
        database.write(partial(runtime_id, runtime=RUNTIME))
        connection.execute("SET synchronous_commit = off")
        # Without triggers: PostgreSQL checks no foreign keys, and the counts are made at the end.
        connection.execute("SET session_replication_role = replica")
        began = time.monotonic()
        for statement in FILL:
            if not (shards_only and statement.startswith(_TEXT_INSERTS)):
                connection.execute(statement.format(n=documents, unreferenced=UNREFERENCED, lane=LANE, shard=SHARD))
        for table in _TABLES_WITH_IDS:
            connection.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT coalesce(max(id), 1) FROM {table}))"
            )
        counts.recount(database)
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")
        print(f"{documents:,} documents after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        meter = Meter(url)
        try:
            yield url, database, meter
        finally:
            meter.close()
            database.close()


def measure_operations(documents: int) -> list[Cost]:
    """Return the cost of each operation on a store with so many documents."""
    with filled_store(documents) as (_, database, meter):
        window = LaneWindow(LANE, 8, 0)
        queued: list[int] = []
        claims: list[shards.Claim] = []

        def top_up() -> int:
            queued.extend(chain(*dispatch.take(database, replace(window, slots=8 + (len(queued) + 1) // 2))))
            return 1

        def claim() -> int:
            claims.append(_claim(database, queued.pop(0), "worker-1"))
            return 1

        def heartbeat() -> int:
            assert shards.heartbeat(database, "worker-1")
            return 1

        def commit() -> int:
            shards.commit(database, claims[0], make_outcomes(claims.pop(0), "out {}"), RUNTIME)
            return 1

        def read(job: int, after: int = 0) -> int:
            rows = results.placed_results(database, job, after=(after, after))
            return sum(1 for _ in islice(rows, EXPORTED if after else 1_000))

        # The first calls are not measured: a session loads what it keeps.
        top_up(), claim(), heartbeat(), commit(), read_status(database, RUNNING_JOB), jobs.finish(database)
        measure = meter.measure
        costs = [
            measure("top-up of 16 shards", top_up, times=4),
            measure("claim", claim, "shard of 256", 40),
            measure("heartbeat of 40 shards", heartbeat, times=20),
            measure("commit", commit, "shard of 256", 40),
            measure("status, running job", lambda: _count_one(read_status(database, RUNNING_JOB)), times=10),
            measure("status, done job", lambda: _count_one(read_status(database, DONE_JOB)), times=10),
            measure("list of jobs", lambda: _count_one(list_statuses(database)), times=10),
            measure("metrics", lambda: _count_one(read_fleet(database, [LANE])), times=5),
            measure("end jobs", lambda: _count_one(jobs.finish(database)), times=20),
            measure("reclaim", lambda: _count_one(maintenance.reclaim(database)), times=20),
            measure("results, first page", partial(read, DONE_JOB), "document", 5),
            measure("export of 50,000", partial(read, DONE_JOB, documents // 3), "document"),
        ]
        costs.append(measure("ingest of 20,000", partial(_ingest, database), "document"))
        if documents <= LARGEST_SWEPT:
            costs.append(measure("sweep of the corpus", partial(_sweep, database, documents), "document"))
        budget = RemovalBudget.of(seconds=60)
        costs.append(
            measure("retention: fold shards", lambda: retention.fold_shards(database, 60, budget).rows, "shard")
        )
        costs.append(measure("gc: look at all, remove 2,000", partial(_collect, database, documents), "content"))
    return costs


def measure_shard_operations(documents: int) -> list[Cost]:
    """Return the costs of operations that read only shards, on a store with the shards of so many documents."""
    with filled_store(documents, shards_only=True) as (_, database, meter):
        read_status(database, RUNNING_JOB)
        measure = meter.measure
        return [
            measure("status, running job", lambda: _count_one(read_status(database, RUNNING_JOB)), times=10),
            measure("status, done job", lambda: _count_one(read_status(database, DONE_JOB)), times=10),
            measure("list of jobs", lambda: _count_one(list_statuses(database)), times=10),
            measure("end jobs", lambda: _count_one(jobs.finish(database)), times=20),
            measure("retention: fold shards", lambda: retention.fold_shards(database, 60).rows, "shard"),
        ]


def _count_one(_result: object) -> int:
    return 1


def _claim(database: Database, shard_id: int, owner: str) -> shards.Claim:
    head = shards.look(database, shard_id)
    assert head is not None
    claim = shards.claim(database, head, owner)
    assert claim is not None
    return claim


def make_outcomes(claim: shards.Claim, template: str) -> list[Outcome]:
    """Return an outcome for each text of a claim. `{}` in the template becomes the content's id."""
    return [
        Outcome(content_id, Status.DONE, text=template.format(content_id), tokens_in=20, tokens_out=12)
        for content_id, _ in claim.texts
    ]


def _ingest(database: Database) -> int:
    job = jobs.open_job(database, JobRequest("nightly", "nightly", (StepRequest("step", SPECS[0]),)))
    total = ingest.Counts()
    for first in range(0, INGESTED, CHUNK_RECORDS):
        chunk = ChunkBuilder()
        for n in range(first, min(INGESTED, first + CHUNK_RECORDS)):
            chunk.put(f"night-{n}", f"A new text of the night, number {n}, that nobody has read before.", {}, (), n)
        total += ingest.add(database, job, chunk.chunk())
    ingest.end(database, job, total)
    jobs.cancel(database, job.id)
    return INGESTED


def _sweep(database: Database, documents: int) -> int:
    """Open a job on the whole corpus. All its results exist, so it plans no shards."""
    job = jobs.open_job(database, JobRequest("archive", "again", (StepRequest("step", SPECS[0]),)))
    ingest.end(database, job, ingest.Counts())
    assert read_status(database, job.id).done == documents
    return documents


def _collect(database: Database, documents: int) -> int:
    assert gc.collect(database).contents == UNREFERENCED
    return documents


# A hundred workers.


def _read_multixacts(url: str, meter: Meter) -> int:
    """Return the number of MultiXacts so far. PostgreSQL tells it after a checkpoint."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
    return int(meter.read_value(NEXT_MULTIXACT))


def measure_shared_outputs(workers: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Return the rate and the waits of processes that claim and commit shards of one spec with two distinct outputs.

    A second step reads the outputs, so every outcome refers to one of two contents.
    """
    with filled_store(20_000) as (url, database, meter), own_redis(folder) as (redis_url, _):
        second = StepRequest("second", Spec(LANE, "null", "sha256:4"), "first")
        steps = (StepRequest("first", Spec(LANE, "null", "sha256:3")), second)
        job = jobs.open_job(database, JobRequest("shared", "shared", steps))
        first_spec_id = job.steps[0].spec_id
        with psycopg.connect(url, autocommit=True) as connection:
            insert_texts = """INSERT INTO content (sha256, text, n_chars) SELECT sha256(convert_to(t, 'UTF8')), t, 40
              FROM (SELECT 'Text ' || d || ' of a shard' AS t FROM generate_series(1, 1000000) d) t"""
            connection.execute(insert_texts)
            connection.execute(
                f"""INSERT INTO shard (job_id, step, spec_id, lane, contents, n_contents, n_chars, state, redo, fence,
                  attempt, suspect, not_before, n_done, n_failed, n_skipped, n_truncated, tokens_in, tokens_out)
                SELECT {job.id}, 0, {first_spec_id}, '{LANE}', decode(string_agg(substr(h, 7, 2) || substr(h, 5, 2)
                  || substr(h, 3, 2) || substr(h, 1, 2) || '00000000', '' ORDER BY id), 'hex'), count(*),
                  40 * count(*), 'planned', false, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
                FROM (SELECT id, lpad(to_hex(id), 8, '0') AS h FROM content WHERE id > 20000 + {UNREFERENCED}) c
                GROUP BY id / 100"""
            )
            connection.execute("UPDATE job SET state = 'cancelled' WHERE id < 3")
            connection.execute("VACUUM ANALYZE")
        waits: Counter[str] = Counter()
        with _running_workers(url, redis_url, workers) as committed:
            client = redis.Redis.from_url(redis_url)
            _dispatch_while(lambda: committed.value < 2 * workers, database, client, workers)
            first_multixact = _read_multixacts(url, meter)
            meter.read_value("SELECT pg_stat_reset_slru(NULL) IS NULL")
            first, began, first_server_s = committed.value, time.perf_counter(), meter.read_server_s()
            count_waits = partial(_count_waits, meter, waits)
            _dispatch_while(lambda: time.perf_counter() < began + seconds, database, client, workers, count_waits)
            n_shards, elapsed_s = committed.value - first, time.perf_counter() - began
            server_s = meter.read_server_s() - first_server_s
        n_multixacts = _read_multixacts(url, meter) - first_multixact
        slru_lookups = {
            name: int(meter.read_value(f"SELECT blks_hit + blks_read FROM pg_stat_slru WHERE name = '{name}'"))
            for name in ("MultiXactMember", "MultiXactOffset")
        }
    n_waits = max(1, waits.total())
    return {
        "workers": workers,
        "shards of 100": n_shards,
        "shards/s": round(n_shards / elapsed_s, 1),
        "server ms a shard": round(server_s / max(1, n_shards) * 1e3, 2),
        "multixacts a shard": round(n_multixacts / max(1, n_shards), 2),
        "SLRU look-ups a shard": {name: round(n / max(1, n_shards), 1) for name, n in slru_lookups.items()},
        "backends by wait, %": {name: round(100 * n / n_waits, 1) for name, n in waits.most_common(8)},
    }


def _count_waits(meter: Meter, waits: Counter[str]) -> None:
    """Add the active backends to the counts of what they wait for."""
    rows = meter.connection.execute(
        """SELECT coalesce(wait_event_type || ':' || wait_event, 'CPU'), count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid() GROUP BY 1"""
    )
    waits.update(dict(rows.fetchall()))


def _dispatch_while(
    condition: Callable[[], bool],
    database: Database,
    client: Any,
    workers: int,
    observe: Callable[[], None] = lambda: None,
) -> None:
    """Dispatch shards to the workers while the condition holds."""
    while condition():
        if client.llen("hints") < 2 * workers:
            [lane] = dispatch.lanes(database, LANE)
            if shard_ids := [*chain(*dispatch.take(database, replace(lane, slots=2 * workers)))]:
                client.lpush("hints", *shard_ids)
        observe()
        time.sleep(0.05)


@contextmanager
def _running_workers(url: str, redis_url: str, workers: int) -> Iterator[Any]:
    """Run so many processes, forked so that they share the libraries. Yield the number of shards they committed."""
    forked = multiprocessing.get_context("fork")
    committed = forked.Value("q", 0)
    end = forked.Event()
    processes = [
        forked.Process(target=_run_worker, args=(url, redis_url, f"light-{number}", committed, end), daemon=True)
        for number in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        yield committed
    finally:
        end.set()
        for process in processes:
            process.join(20)
            process.kill()


def _run_worker(url: str, redis_url: str, owner: str, committed: Any, end: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    database = Database(url, kinds=KINDS, pool_size=1)
    client = redis.Redis.from_url(redis_url)
    next_beat = 0.0
    while not end.is_set():
        if (hint := client.brpop("hints", timeout=1)) is None:
            continue
        if (head := shards.look(database, int(hint[1]))) is None:
            continue
        if (claim := shards.claim(database, head, owner)) is None:
            continue
        if time.monotonic() > next_beat:
            next_beat = time.monotonic() + 5
            shards.heartbeat(database, owner)
        outcomes = [
            replace(outcome, text=("yes", "no")[outcome.content_id % 2]) for outcome in make_outcomes(claim, "{}")
        ]
        shards.commit(database, claim, outcomes, RUNTIME)
        with committed.get_lock():
            committed.value += 1


# A held snapshot.

# Changes shards as dispatching, claiming and committing do, each in its own transaction.
FINISH_SHARDS = """DO $$ DECLARE s bigint; t float8; BEGIN
FOR s IN SELECT id FROM shard WHERE job_id = {job} AND state = 'planned' ORDER BY id LIMIT {n} LOOP
  t := extract(epoch FROM clock_timestamp());
  UPDATE shard SET state = 'queued', dispatched_at = t WHERE id = s; COMMIT;
  UPDATE shard SET state = 'running', fence = 1, attempt = 1, owner = 'w', lease_until = 9e9, started_at = t
    WHERE id = s; COMMIT;
  UPDATE shard SET state = 'done', lease_until = NULL, finished_at = t, n_done = 1, tokens_in = 20
    WHERE id = s; COMMIT;
END LOOP; END $$"""


def measure_held_snapshot(backlog: int, finished: Sequence[int]) -> list[dict[str, Any]]:
    """Return the costs beside a backlog, without and with a held snapshot, after these numbers of finished shards."""
    rows = []
    for held in (False, True):
        with filled_store(20_000) as (url, database, meter), psycopg.connect(url, autocommit=True) as connection:
            connection.execute("UPDATE job SET state = 'cancelled' WHERE id < 3")
            job = jobs.open_job(database, JobRequest("open", "open", (StepRequest("step", SPECS[0]),)))
            connection.execute(BACKLOG.format(job=job.id, n=backlog, lane=LANE))
            connection.execute("VACUUM ANALYZE")
            connection.execute("SET synchronous_commit = off")
            with ExitStack() as stack:
                if held:
                    holder = stack.enter_context(psycopg.connect(url))
                    holder.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                    holder.execute("SELECT count(*) FROM job")
                before = 0
                for n_finished in finished:
                    if n_finished > before:
                        connection.execute(FINISH_SHARDS.format(job=job.id, n=n_finished - before))
                        before = n_finished
                    rows.append({"snapshot": held, "passed": n_finished, **_measure_dispatch(database, meter)})
                    print(rows[-1], file=sys.stderr, flush=True)
    return rows


_FINISH_QUEUED = "WITH passed AS (UPDATE shard SET state = 'done' WHERE state = 'queued' RETURNING id) SELECT 1"


def _measure_dispatch(database: Database, meter: Meter) -> dict[str, float]:
    queued: list[int] = []

    def top_up(only: str | None = LANE) -> int:
        [lane] = dispatch.lanes(database, only)
        queued.extend(chain(*dispatch.take(database, replace(lane, slots=8))))
        return 1

    def claim_and_release() -> int:
        shards.release(database, _claim(database, queued.pop(0), "w"))
        return 1

    top_up()
    meter.read_value(_FINISH_QUEUED)
    queued.clear()
    top_up_cost = meter.measure("top-up", top_up)
    claim_cost = meter.measure("claim and release", claim_and_release, times=8)
    metrics_cost = meter.measure("metrics", lambda: _count_one(read_fleet(database, [LANE])), times=3)
    meter.read_value(_FINISH_QUEUED)
    maintenance_cost = meter.measure("top-up of maintenance", partial(top_up, None))
    meter.read_value(_FINISH_QUEUED)
    return {
        "top-up server ms": top_up_cost.server_ms,
        "top-up blocks": top_up_cost.blocks,
        "maintenance's top-up server ms": maintenance_cost.server_ms,
        "maintenance's top-up blocks": maintenance_cost.blocks,
        "claim server ms": claim_cost.server_ms,
        "metrics server ms": metrics_cost.server_ms,
        "metrics blocks": metrics_cost.blocks,
    }


# People who watch.


def measure_watchers(documents: int, people: int, seconds: float) -> dict[str, Any]:
    """Return the load when people watch one job: looks per second, and the server's cores that they keep busy."""
    with filled_store(documents, shards_only=True) as (url, _, meter):
        forked = multiprocessing.get_context("fork")
        end, looks = forked.Event(), forked.Value("q", 0)
        process = forked.Process(target=_run_watchers, args=(url, people, end, looks), daemon=True)
        process.start()
        while looks.value < people:
            time.sleep(0.1)
        first, began, first_server_s = looks.value, time.perf_counter(), meter.read_server_s()
        time.sleep(seconds)
        n_looks, elapsed_s = looks.value - first, time.perf_counter() - began
        server_s = meter.read_server_s() - first_server_s
        end.set()
        process.join(30)
        process.kill()
    return {
        "documents": documents,
        "people": people,
        "looks/s": round(n_looks / elapsed_s, 1),
        "server ms a look": round(server_s / max(1, n_looks) * 1e3, 2),
        "cores of the server": round(server_s / elapsed_s, 2),
    }


def _run_watchers(url: str, people: int, end: Any, looks: Any) -> None:
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
    parser.add_argument("--documents", default="100000,1000000", help="numbers of documents, separated by commas")
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--backlog", type=int, default=1_600_000, help="open shards for the part snapshot")
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--parts", default="curve,shared,snapshot,watchers")
    parser.add_argument("--write", metavar="NAME", help="write bench/results/NAME.json")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers end and databases are dropped
    sizes, parts = [int(size) for size in options.documents.split(",")], options.parts.split(",")
    facts: dict[str, Any] = {"load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "curve" in parts:
            facts["curve"] = {size: [asdict(cost) for cost in measure_operations(size)] for size in sizes}
        if "shards" in parts:
            facts["shards"] = {size: [asdict(cost) for cost in measure_shard_operations(size)] for size in sizes}
        if "shared" in parts:
            facts["shared"] = [measure_shared_outputs(n, options.seconds, folder) for n in (4, options.workers)]
        if "snapshot" in parts:
            facts["snapshot"] = measure_held_snapshot(options.backlog, (0, 25_000, 100_000))
        if "watchers" in parts:
            facts["watchers"] = [measure_watchers(size, options.people, options.seconds) for size in sizes]
    print(json.dumps(facts, indent=1))
    if options.write:
        (RESULTS / f"{options.write}.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
