"""Fill a SQLite store and a PostgreSQL store, and write both, and what users see of them, into a folder.

It was run at d5aa8a2, in that commit's tree with this folder put into it: `python -m tests.frozen.make FOLDER`. It
wants PostgreSQL 15 with its `pg_dump`, and a Redis.
"""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from celery import Celery

from tests.faults.servers import PostgresCluster, RedisServer, open_folder
from tests.frozen import story
from tests.frozen.observation import observed
from tests.worker.harness import Docmill, kill_group, until

SOURCES = Path(__file__).with_name("sources")
SETTINGS = {"DOCMILL_LEASE_S": "3", "DOCMILL_UPKEEP_S": "0.5", "DOCMILL_THREADS": "1"}
FAULT = "DOCMILL_FAULT"


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(exist_ok=True)
    folder = Path(story.FOLDER)
    with open_folder() as servers, RedisServer(servers / "redis") as redis:
        fill(folder, f"sqlite:///{folder / 'docmill.db'}", redis.url)
        _write(out / "sqlite.json", observed(_docmill(folder, f"sqlite:///{folder / 'docmill.db'}")))
        with closing(sqlite3.connect(folder / "docmill.db")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        _pack(out / "sqlite.db.gz", (folder / "docmill.db").read_bytes())
        shutil.rmtree(folder)
        redis.client().flushall()
        with PostgresCluster(servers / "cluster") as cluster:
            url = cluster.create()
            fill(folder, url, redis.url)
            _write(out / "postgresql.json", observed(_docmill(folder, url)))
            dump = ["pg_dump", "--no-owner", "--no-privileges", "--inserts", "--rows-per-insert=50", url]
            _pack(out / "postgresql.sql.gz", _plain(subprocess.run(dump, check=True, capture_output=True).stdout))
        shutil.rmtree(folder)


def fill(folder: Path, url: str, redis_url: str) -> None:
    """Give the commands of the story to an empty store."""
    shutil.copytree(SOURCES, folder, ignore=shutil.ignore_patterns("before"))
    docmill = _docmill(folder, url)
    docmill("db", "upgrade")
    shutil.copy(SOURCES / "before" / "press.jsonl", folder / "press.jsonl")
    docmill(*story.BEFORE.arguments.split())
    shutil.copy(SOURCES / "press.jsonl", folder / "press.jsonl")
    docmill("pipeline", "add", "nightly.toml")
    for ran in story.DONE:
        docmill(*ran.arguments.split(), code=ran.code)
    docmill.environment["DOCMILL_REDIS_URL"] = redis_url
    _give_orders(docmill, redis_url)
    cancelled = docmill.enqueue(*story.CANCELLED.split()[1:])
    docmill("cancel", cancelled)
    docmill("pause", docmill.enqueue(*story.PAUSED.split()[1:]))
    _half(docmill)
    docmill.environment |= {FAULT: "enqueue:kill@1", "DOCMILL_HOME": str(folder / "home2")}
    docmill("enqueue", *story.INTERRUPTED.split(), code=-signal.SIGKILL)


def _give_orders(docmill: Docmill, redis_url: str) -> None:
    app = Celery(broker=redis_url, set_as_current=False)
    for order_id, arguments in story.ORDERS.items():
        app.send_task("docmill.enqueue", queue="docmill:v1:enqueue", kwargs=arguments | {"order_id": order_id})
    app.close()
    docmill.environment |= {"DOCMILL_LANES": "translate,enqueue", "DOCMILL_ORDER_ROOTS": story.FOLDER}
    with docmill.worker():
        until(lambda: _states(docmill.json("orders")["orders"]) == ["done", "refused"], "the orders are carried out")
        until(lambda: "running" not in _states(docmill.json("jobs")), "their job ends")


def _half(docmill: Docmill) -> None:
    """Leave a job of which a shard or two are done and one is held by a worker that was killed."""
    docmill.environment[FAULT] = "computed:hang@3"
    job = docmill.enqueue(*story.HALF_DONE.split())
    worker = docmill.start("worker")
    until((Path(docmill.environment["DOCMILL_HOME"]) / "fault.struck").exists, "a shard hangs")
    kill_group(worker)
    shards = docmill.json("status", job)["shards"]
    assert shards["done"], shards
    assert shards["running"], shards


def _docmill(folder: Path, url: str) -> Docmill:
    docmill = Docmill(folder, {**SETTINGS, "DOCMILL_DATABASE_URL": url})
    docmill.from_anew = True
    return docmill


def _states(listed: list[dict[str, Any]]) -> list[str]:
    return sorted(one["state"] for one in listed)


def _plain(dump: bytes) -> bytes:
    """The dump without comments, and without what only one version of the server knows."""
    lines = dump.decode().splitlines(keepends=True)
    return "".join(
        line for line in lines if not line.startswith(("--", "SET ", "\\", "SELECT pg_catalog.set_config"))
    ).encode()


def _write(path: Path, seen: dict[str, Any]) -> None:
    parts = ",\n".join(f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in seen.items())
    path.write_text("{" + parts + "}\n", encoding="utf-8")


def _pack(path: Path, data: bytes) -> None:
    path.write_bytes(gzip.compress(data, mtime=0))


if __name__ == "__main__":
    main()
