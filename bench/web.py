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
from starlette.testclient import TestClient

from bench.pairs import RESULTS, described, machine
from bench.stores import fresh_postgres
from bench.web_store import Size, fill
from storage.core.database import Database
from tasks.kinds import STORED_KINDS as KINDS
from worker.settings import Settings
from worker.web.app import make_app
from worker.web.registry import PAGES
from worker.web.site import Site

AIM_MS = 200.0
REPEATS = 20
LIVE = "UPDATE worker SET seen_at = extract(epoch FROM now()) + 86400"  # else all would be dead after half a minute
NO_VIEW = {"search.html.j2"}  # its time is that of a model and of vectors


def views(jobs: int) -> dict[str, str]:
    """Return the addresses that are asked for, by what they show."""
    of_job = {
        "a finished job of 5 million documents": 500,
        "a running job of 5 million": jobs - 500,
        "a nightly job": 3,
    }
    found = {
        "jobs": "/jobs",
        "jobs, an older page": f"/jobs?before={jobs // 2}",
        "jobs, stopped": "/jobs?state=stopped",
    }
    for page in PAGES:
        if page.template in NO_VIEW or page.path == "/jobs":
            continue
        if "{job" in page.path:
            for name, job in of_job.items():
                path = re.sub(r"{job(:\w+)?}", str(job), page.path)
                if path.endswith("/document"):
                    path += f"?id=document-{5_075_003 if job == 3 else 41}"
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


def measure(browser: TestClient, path: str, server_s: Callable[[], float]) -> Measured:
    """Return the times of a view; `server_s` returns the processor time that the database has had."""
    times, size = [], 0
    before = time.process_time() + server_s()
    for _ in range(REPEATS):
        began = time.perf_counter()
        answer = browser.get(path)
        times.append((time.perf_counter() - began) * 1_000)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[-300:]}"
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
    parser.add_argument("--store", help="URL of a store that this benchmark filled before")
    given = parser.parse_args()
    size = Size(given.jobs, given.documents)
    with ExitStack() as stack:
        url = stack.enter_context(store(size, given.store))
        home = Path(stack.enter_context(TemporaryDirectory()))
        raw = stack.enter_context(psycopg.connect(url, autocommit=True))
        raw.execute(LIVE)
        database = Database(url, kinds=KINDS)
        stack.callback(database.close)
        browser = TestClient(make_app(Site(database, Settings(home=home))), base_url="http://127.0.0.1:8321")
        found = {}
        for name, path in views(size.jobs).items():
            found[name] = measure(browser, path, partial(server_seconds, raw))
            print(name, found[name], flush=True)
    write(size, found)


def write(size: Size, found: Mapping[str, Measured]) -> None:
    """Write the figures to `bench/results/web.json` and `web.md`."""
    load = round(os.getloadavg()[0], 1)
    rows = [{"view": name, **asdict(one)} for name, one in found.items()]
    facts = {"machine": machine(), "jobs": size.jobs, "documents": size.documents, "aim_ms": AIM_MS, "load": load}
    (RESULTS / "web.json").write_text(json.dumps(facts | {"views": rows}, indent=1) + "\n")
    cells = [f"| {name} | {' | '.join(map(str, asdict(one).values()))} |" for name, one in found.items()]
    about = (
        f"{size.jobs:,} jobs, {size.documents:,} documents, PostgreSQL; {REPEATS} answers of each view; load {load}."
    )
    table = ["| view | median ms | worst ms | CPU ms | kB |", "| --- | --: | --: | --: | --: |", *cells]
    (RESULTS / "web.md").write_text("\n".join(["# web", "", described(machine()), "", about, "", *table]) + "\n")


if __name__ == "__main__":
    main()
