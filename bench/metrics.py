"""Measure the cost of a scrape of `docmill metrics`, on a store with 100 jobs that have a million shards in all.

The aims: a scrape takes under 100 ms, and a scrape every 15 s takes under 1 % of a core, including the database
server. A store with fewer shards shows how the cost depends on their number.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import psycopg
from sqlalchemy import text

from bench.pairs import RESULTS
from bench.stores import fresh_postgres, fresh_sqlite
from docmill.features.metrics.serving import FleetCollector, write_exposition
from docmill.storage.core.database import Database
from docmill.storage.core.transaction import Transaction
from docmill.storage.results.fleet import read_fleet
from docmill.tasks.kinds import STORED_KINDS as KINDS
from docmill.worker.settings import LANES

JOBS = 100
INTERVAL_S = 15.0
SCRAPE_AIM_S, SHARE_AIM = 0.1, 0.01

# A tenth of each job's shards finished in the last ten hours, 20 wait in the queue, and 8 run.
SHARD = """
INSERT INTO shard (id, job_id, step, spec_id, lane, contents, n_contents, n_chars, state, redo, fence, attempt,
    suspect, lapses, not_before, dispatched_at, finished_at, n_done, n_failed, n_skipped, n_truncated,
    n_doubtful, tokens_in, tokens_out)
WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n + 1 < {shards}),
placed AS (SELECT n, 1 + n / {each} AS job, n % {each} AS place FROM number)
SELECT 1 + n, job, 0, 1, 'embed', {blob}, 128, 100000,
    CASE WHEN place < {each} / 10 THEN 'done' WHEN place < {each} / 10 + 20 THEN 'queued'
        WHEN place < {each} / 10 + 28 THEN 'running' ELSE 'planned' END,
    false, 0, 0, 0, 0, 0,
    CASE WHEN place < {each} / 10 THEN {now} - 36000.0 * n / {shards}
        WHEN place < {each} / 10 + 28 THEN {now} END,
    CASE WHEN place < {each} / 10 THEN {now} - 36000.0 * n / {shards} END,
    CASE WHEN place < {each} / 10 THEN 128 ELSE 0 END, 0, 0, 0, 0,
    CASE WHEN place < {each} / 10 THEN 30000 ELSE 0 END, 0
FROM placed
"""


@dataclass(frozen=True)
class ScrapeCost:
    """The cost of a scrape: wall-clock seconds, and CPU seconds of the exporter and of the server."""

    store: str
    shards: int
    scrapes: int
    fastest_s: float
    median_s: float
    slowest_s: float
    first_s: float
    own_cpu_s: float
    server_cpu_s: float

    @property
    def share(self) -> float:
        """Return the share of a core that a scrape every 15 s takes."""
        return (self.own_cpu_s + self.server_cpu_s) / INTERVAL_S


def fill(database: Database, shards: int) -> None:
    """Add 100 jobs with `shards` shards in all."""
    is_file = database.server is None
    values = {
        "shards": shards,
        "each": shards // JOBS,
        "blob": "zeroblob(1024)" if is_file else "decode(repeat('00', 1024), 'hex')",
        "now": "unixepoch('subsec')" if is_file else "extract(epoch FROM now())",
    }
    jobs = f"WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {JOBS})"
    statements = (
        "INSERT INTO corpus (id, name, n_documents, created_at) VALUES (1, 'bench', 0, 1)",
        "INSERT INTO spec (id, sha256, kind, model, revision, quality, params) "
        f"VALUES (1, {'zeroblob(32)' if is_file else '%s'}, 'embed', 'null', '', 'auto', '{{}}')".replace(
            "%s", "decode(repeat('00', 32), 'hex')"
        ),
        "INSERT INTO ingest (id, corpus_id, source, options, state, n_records, n_new, n_changed, n_unchanged, "
        f"n_repeated, n_rejected, started_at, seen_at) {jobs} "
        "SELECT n, 1, 'bench', '{}', 'read', 0, 0, 0, 0, 0, 0, 1, 1 FROM number",
        "INSERT INTO job (id, corpus_id, ingest_id, state, paused, priority, base_document, swept_to, n_documents, "
        f"created_at) {jobs} SELECT n, 1, n, 'running', false, 0, 0, 0, 0, 1 FROM number",
        SHARD.format(**values),
    )
    for statement in statements:
        database.write(partial(execute, statement))
    with database.idle() as cursor:
        cursor.execute("ANALYZE" if is_file else "VACUUM (ANALYZE)")


def execute(statement: str, transaction: Transaction) -> None:
    transaction.execute(text(statement.replace(":", r"\:")))


def measure(url: str, shards: int, scrapes: int) -> ScrapeCost:
    """Fill a new store and return the cost of scraping it."""
    database = Database(url, kinds=KINDS)
    fill(database, shards)
    collector = FleetCollector(lambda: read_fleet(database, LANES))
    first_s = scrape(collector)
    own_before_s, server_before_s = own_cpu_s(), server_cpu_s(database)
    later_s = [scrape(collector) for _ in range(scrapes)]
    own_s, server_s = own_cpu_s() - own_before_s, server_cpu_s(database) - server_before_s
    store = database.server or "SQLite"
    database.close()
    times_s = (min(later_s), statistics.median(later_s), max(later_s), first_s)
    return ScrapeCost(store, shards, scrapes, *times_s, own_s / scrapes, server_s / scrapes)


def scrape(collector: FleetCollector) -> float:
    """Scrape the store once, and return the seconds."""
    began = time.perf_counter()
    page = write_exposition(collector)
    seconds = time.perf_counter() - began
    assert 'docmill_shards{lane="embed",state="running"}' in page
    return seconds


def own_cpu_s() -> float:
    """Return the CPU seconds that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def server_cpu_s(database: Database) -> float:
    """Return the CPU seconds of this database's server processes, if they run on this machine."""
    if database.server is None:
        return 0.0
    with psycopg.connect(
        database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    ) as connection:
        pids = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    return sum(_cpu_s(pid) for (pid,) in pids)


def _cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process, from the first field of Linux's schedstat, which is in nanoseconds."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError):
        return 0.0


def measure_sizes(sizes: list[int], scrapes: int, *, sqlite: bool) -> Iterator[ScrapeCost]:
    """Yield the cost of a scrape for each number of shards, each on a new store."""
    for shards in sizes:
        with ExitStack() as stack:
            if sqlite:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                url = stack.enter_context(fresh_sqlite(folder))
            else:
                url = stack.enter_context(fresh_postgres())
            yield measure(url, shards, scrapes)


def format_page(costs: list[ScrapeCost], expected: str) -> str:
    """Return the page of results."""
    lines = [
        "# The cost of a scrape",
        "",
        f"100 jobs; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; "
        f"Python {platform.python_version()}; {platform.machine()}. Expected before the run: {expected}",
        "",
        "| store | shards | first scrape | fastest | median | slowest | CPU: exporter | server | of a core at 15 s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {cost.store} | {cost.shards:,} | {cost.first_s * 1e3:.0f} ms | {cost.fastest_s * 1e3:.1f} ms "
        f"| {cost.median_s * 1e3:.1f} ms | {cost.slowest_s * 1e3:.0f} ms | {cost.own_cpu_s * 1e3:.1f} ms "
        f"| {cost.server_cpu_s * 1e3:.1f} ms | {cost.share:.3%} |"
        for cost in costs
    ]
    are_met = all(cost.median_s < SCRAPE_AIM_S and cost.share < SHARE_AIM for cost in costs)
    lines += ["", f"The aims, under 100 ms and under 1 % of a core: {'held' if are_met else 'missed'}.", ""]
    return "\n".join(lines)


EXPECTED = (
    "a scrape of a million shards takes 8 ms on PostgreSQL and 5 ms on SQLite, within a factor of two of one of ten "
    "thousand, and 0.1 % of a core."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--scrapes", type=int, default=40)
    parser.add_argument("--store", choices=("postgresql", "sqlite", "both"), default="both")
    parser.add_argument("--write", action="store_true", help="write bench/results/metrics.*")
    options = parser.parse_args()
    costs: list[ScrapeCost] = []
    for store in ("postgresql", "sqlite"):
        if options.store in {store, "both"}:
            costs += measure_sizes(options.shards, options.scrapes, sqlite=store == "sqlite")
    page = format_page(costs, EXPECTED)
    print(page)
    if options.write:
        (RESULTS / "metrics.md").write_text(page)
        rows = [{**asdict(cost), "share_of_a_core": cost.share} for cost in costs]
        (RESULTS / "metrics.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
