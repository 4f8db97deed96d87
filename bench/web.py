"""The web page over a store of 10,000 jobs and 10 million documents: the time of every view, through HTTP.

The aim is 200 ms for each view. Parts of pages that a browser asks for again are views, too. A view is asked for
20 times; the first answer, with cold pages of the database, counts for the worst one.
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
from bench.web_sqlite import copy
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
LIVE = update(Worker).values(seen_at=db_now() + 86_400)  # else all would be dead after half a minute
MISSING = "a document that is not there"


def views(size: Size) -> dict[str, str]:
    """Return the addresses that are asked for, by what they show."""
    jobs = size.jobs
    of_job = {"a finished job of half the documents": 500, "a running job of as many": jobs - 500, "a nightly job": 3}
    found = {
        "jobs": "/jobs",
        "jobs, an older page": f"/jobs?before={jobs // 2}",
        "jobs, stopped": "/jobs?state=stopped",
        "search": "/search",
        "search, a document by its id": f"/search?id=document-{size.first_of(3) + 41}",
        f"search, a text beside {size.in_other:,} vectors of 8 numbers": "/search?text=rain&corpus=corpus-2",
        MISSING: f"/jobs/{jobs - 500}/document?id=nothing",
        "a running job: a document without a result": f"/jobs/{jobs - 500}/document?id=document-{UNCOMPUTED}",
    }
    for page in PAGES:
        if page.path in found.values():
            continue
        if "{job" in page.path:
            for name, job in of_job.items():
                path = re.sub(r"{job(:\w+)?}", str(job), page.path)
                if path.endswith("/document"):
                    path += f"?id=document-{size.first_of(job) + (41 if job == 3 else size.in_archive // 2)}"
                found[f"{name}: {path.removeprefix(f'/jobs/{job}') or '/'}"] = path
        else:
            path = page.path.replace("{name}", "nightly-3")
            found[path.strip("/")] = path
    return found


@dataclass(frozen=True)
class Measured:
    """The times of a view in milliseconds, and the size of its answer.

    `cpu_ms` is the processor time of an answer in docmill and in the database's process for its connection. On a
    machine that does other work it says more than the time that passed.
    """

    median_ms: float
    worst_ms: float
    cpu_ms: float
    kb: float


def measure(browser: TestClient, path: str, server_s: Callable[[], float], status: int) -> Measured:
    """Return the times of a view; `server_s` returns the processor time that the database has had."""
    times, size = [], 0
    before = time.process_time() + server_s()
    for _ in range(REPEATS):
        began = time.perf_counter()
        answer = browser.get(path)
        times.append((time.perf_counter() - began) * 1_000)
        assert answer.status_code == status, f"{path}: {answer.status_code} {answer.text[-300:]}"
        size = len(answer.content)
    cpu_s = time.process_time() + server_s() - before
    found = (statistics.median(times), max(times), 1_000 * cpu_s / REPEATS, size / 1_000)
    return Measured(*(round(one, 1) for one in found))


def server_seconds(raw: psycopg.Connection) -> float:
    """Return the processor time of the database's processes for other connections to it (of this machine)."""
    pids = raw.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    ticks = 0
    for (pid,) in pids:
        with suppress(FileNotFoundError):
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def no_server() -> float:
    """Return the processor time of a store that is a file of this process."""
    return 0.0


@contextmanager
def store(size: Size, url: str | None) -> Iterator[str]:
    """Yield the URL of a filled store: a fresh one, which goes afterwards, or one that was kept."""
    if url is not None:
        yield url
        return
    with fresh_postgres() as fresh:
        for part, seconds in fill(fresh, size):
            print(f"{seconds:7.1f} s {part}", flush=True)
        yield fresh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--store", help="URL of a store on PostgreSQL that this benchmark filled before")
    parser.add_argument(
        "--sqlite", type=Path, help="measure a copy of the store in this file, and make it if need be"
    )
    given = parser.parse_args()
    size = Size(given.jobs, given.documents)
    with ExitStack() as stack:
        url = stack.enter_context(store(size, given.store))
        if given.sqlite is not None:
            url = copied(url, given.sqlite)
        home = Path(stack.enter_context(TemporaryDirectory()))
        server_s = no_server
        if not url.startswith("sqlite"):
            raw = stack.enter_context(psycopg.connect(url, autocommit=True))
            server_s = partial(server_seconds, raw)
        database = Database(url, kinds=KINDS)
        stack.callback(database.close)
        database.write(lambda transaction: transaction.execute(LIVE))
        browser = TestClient(make_app(Site(database, Settings(home=home))), base_url="http://127.0.0.1:8321")
        found = {}
        for name, path in views(size).items():
            found[name] = measure(browser, path, server_s, 404 if name == MISSING else 200)
            print(name, found[name], flush=True)
    write(size, found, "PostgreSQL" if given.sqlite is None else "SQLite")


def copied(url: str, path: Path) -> str:
    """Return the URL of a copy of a store in a SQLite file."""
    found = f"sqlite:///{path.absolute()}"
    if not path.exists():
        database = Database(found, kinds=KINDS)
        migrations.upgrade(database)
        database.close()
        copy(url, path)
    return found


def write(size: Size, found: Mapping[str, Measured], engine: str) -> None:
    """Write the figures to `bench/results/web.json` and `web.md`, or to `web-sqlite`."""
    name = "web" if engine == "PostgreSQL" else "web-sqlite"
    load = round(os.getloadavg()[0], 1)
    rows = [{"view": name, **asdict(one)} for name, one in found.items()]
    about = {"store": engine, "jobs": size.jobs, "documents": size.documents, "aim_ms": AIM_MS, "load": load}
    facts = {"machine": machine(), **about, "views": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    cells = [f"| {view} | {' | '.join(map(str, asdict(one).values()))} |" for view, one in found.items()]
    said = f"{size.jobs:,} jobs, {size.documents:,} documents, {engine}; {REPEATS} answers of each view; load {load}."
    table = ["| view | median ms | worst ms | CPU ms | kB |", "| --- | --: | --: | --: | --: |", *cells]
    page = [f"# {name}", "", described(machine()), "", said, "", *table]
    (RESULTS / f"{name}.md").write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
