"""Measure the time of every view of the web page over HTTP, with 10,000 jobs and 10 million documents.

The aim is 200 ms for each view. The parts of a page that a browser requests again are views, too. Each view is
requested 20 times. The worst time includes the first answer, when the database's pages are not cached yet.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from sqlalchemy import update
from starlette.testclient import TestClient

from bench.pairs import RESULTS, described, machine
from bench.stores import fresh_postgres
from bench.web_sqlite import copy_rows
from bench.web_store import UNCOMPUTED, Size, fill
from docmill.storage import migrations
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Worker, db_now
from docmill.tasks.kinds import STORED_KINDS as KINDS
from docmill.worker.settings import Settings
from docmill.worker.web.server import PAGES, make_app
from docmill.worker.web.site import Site

AIM_MS = 200.0
REPEATS = 20
# Otherwise all workers would count as dead after half a minute.
KEEP_WORKERS_LIVE = update(Worker).values(seen_at=db_now() + 86_400)
MISSING = "a document that is not there"


def list_views(size: Size) -> dict[str, str]:
    """Return the paths to request, by the name of the view."""
    jobs = size.jobs
    chosen_jobs = {
        "a finished job of half the documents": 500,
        "a running job of as many": jobs - 500,
        "a nightly job": 3,
    }
    views = {
        "jobs": "/jobs",
        "jobs, an older page": f"/jobs?before={jobs // 2}",
        "jobs, stopped": "/jobs?state=stopped",
        "search": "/search",
        "search, a document by its id": f"/search?id=document-{size.count_before(3) + 41}",
        f"search, a text beside {size.other_documents:,} vectors of 8 numbers": "/search?text=rain&corpus=corpus-2",
        MISSING: f"/jobs/{jobs - 500}/document?id=nothing",
        "a running job: a document without a result": f"/jobs/{jobs - 500}/document?id=document-{UNCOMPUTED}",
    }
    for page in PAGES:
        if page.path in views.values():
            continue
        if "{job" in page.path:
            for name, job in chosen_jobs.items():
                path = re.sub(r"{job(:\w+)?}", str(job), page.path)
                if path.endswith("/document"):
                    place = 41 if job == 3 else size.archive_documents // 2
                    path += f"?id=document-{size.count_before(job) + place}"
                views[f"{name}: {path.removeprefix(f'/jobs/{job}') or '/'}"] = path
        else:
            path = page.path.replace("{name}", "nightly-3")
            views[path.strip("/")] = path
    return views


@dataclass(frozen=True)
class ViewCost:
    """The times of a view in milliseconds, and the size of its answer in kB.

    `cpu_ms` is the CPU time of an answer in docmill and in the database's processes. On a busy machine it says more
    than the wall-clock time.
    """

    median_ms: float
    worst_ms: float
    cpu_ms: float
    kb: float


def measure_view(
    browser: TestClient, path: str, read_server_s: Callable[[], float], expected_status: int
) -> ViewCost:
    """Return the cost of a view. `read_server_s` returns the CPU seconds that the database has used so far."""
    times_ms, size = [], 0
    before_s = time.process_time() + read_server_s()
    for _ in range(REPEATS):
        began = time.perf_counter()
        answer = browser.get(path)
        times_ms.append((time.perf_counter() - began) * 1_000)
        assert answer.status_code == expected_status, f"{path}: {answer.status_code} {answer.text[-300:]}"
        size = len(answer.content)
    cpu_s = time.process_time() + read_server_s() - before_s
    figures = (statistics.median(times_ms), max(times_ms), 1_000 * cpu_s / REPEATS, size / 1_000)
    return ViewCost(*(round(figure, 1) for figure in figures))


def read_postgres_s(connection: psycopg.Connection) -> float:
    """Return the CPU seconds of the server processes of the database's other connections, on this machine."""
    pids = connection.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    ticks = 0
    for (pid,) in pids:
        with suppress(FileNotFoundError):
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def read_sqlite_s() -> float:
    """Return 0: SQLite has no server, and its CPU time is this process's."""
    return 0.0


@contextmanager
def filled_store(size: Size, url: str | None) -> Iterator[str]:
    """Yield the URL of a filled store: the given one, or a new one that is dropped when the block ends."""
    if url is not None:
        yield url
        return
    with fresh_postgres() as new_url:
        for part, seconds in fill(new_url, size):
            print(f"{seconds:7.1f} s {part}", flush=True)
        yield new_url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--store", help="URL of a PostgreSQL store that this benchmark filled before")
    parser.add_argument(
        "--sqlite", type=Path, help="measure a copy of the store in this SQLite file; make it if it does not exist"
    )
    options = parser.parse_args()
    size = Size(options.jobs, options.documents)
    with ExitStack() as stack:
        url = stack.enter_context(filled_store(size, options.store))
        if options.sqlite is not None:
            url = copy_to_sqlite(url, options.sqlite)
        home = Path(stack.enter_context(TemporaryDirectory()))
        read_server_s = read_sqlite_s
        if not url.startswith("sqlite"):
            connection = stack.enter_context(psycopg.connect(url, autocommit=True))
            read_server_s = partial(read_postgres_s, connection)
        database = Database(url, kinds=KINDS)
        stack.callback(database.close)
        database.write(lambda transaction: transaction.execute(KEEP_WORKERS_LIVE))
        browser = TestClient(make_app(Site(database, Settings(home=home))), base_url="http://127.0.0.1:8321")
        costs = {}
        for name, path in list_views(size).items():
            costs[name] = measure_view(browser, path, read_server_s, 404 if name == MISSING else 200)
            print(name, costs[name], flush=True)
    write_results(size, costs, "PostgreSQL" if options.sqlite is None else "SQLite")


def copy_to_sqlite(url: str, path: Path) -> str:
    """Copy a store into a SQLite file unless the file exists, and return the file's URL."""
    sqlite_url = f"sqlite:///{path.absolute()}"
    if not path.exists():
        database = Database(sqlite_url, kinds=KINDS)
        migrations.upgrade(database)
        database.close()
        copy_rows(url, path)
    return sqlite_url


def write_results(size: Size, costs: Mapping[str, ViewCost], engine: str) -> None:
    """Write the costs to `bench/results/web.json` and `web.md`, or to `web-sqlite.json` and `web-sqlite.md`."""
    name = "web" if engine == "PostgreSQL" else "web-sqlite"
    load = round(os.getloadavg()[0], 1)
    views = [{"view": view, **asdict(cost)} for view, cost in costs.items()]
    store = {"store": engine, "jobs": size.jobs, "documents": size.documents, "aim_ms": AIM_MS, "load": load}
    facts = {"machine": machine(), **store, "views": views}
    (RESULTS / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    rows = [f"| {view} | {' | '.join(map(str, asdict(cost).values()))} |" for view, cost in costs.items()]
    note = f"{size.jobs:,} jobs, {size.documents:,} documents, {engine}; {REPEATS} answers of each view; load {load}."
    table = ["| view | median ms | worst ms | CPU ms | kB |", "| --- | --: | --: | --: | --: |", *rows]
    page = [f"# {name}", "", described(machine()), "", note, "", *table]
    (RESULTS / f"{name}.md").write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
