"""What a new operator gets wrong, found before it hurts. Each finding says what to do."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy import select

from storage.database import Database, db_now
from storage.dispatch import LIVE_S
from storage.errors import StorageError
from storage.migrations import require_current
from storage.schema import Worker
from tasks import models
from tasks.errors import ModelError
from worker.broker import Broker
from worker.embedded import EmbeddedRedis
from worker.errors import WorkerError
from worker.settings import Settings

LEAST_ROOM_BYTES = 1_000_000_000

PROBE = """
import torch
print(torch.__version__, "cuda" if torch.cuda.is_available() else "cpu", torch.get_num_threads(), "threads")
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `advice` says what to do; it may be there for what is fine too."""

    what: str
    ok: bool
    detail: str
    advice: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Look at everything; what cannot be reached is a finding, never an exception."""
    looks: list[Callable[[Settings], Iterator[Finding]]] = [_database, _redis, _models, _device, _disk]
    return [finding for look in looks for finding in look(settings)]


def _database(settings: Settings) -> Iterator[Finding]:
    database = Database(settings.store_url)
    try:
        if settings.database_url is None and not (settings.home / "docmill.db").exists():
            yield Finding("database", True, f"{database}: will be made by the first run")
            return
        require_current(database)
        yield Finding("database", True, f"{database}: reachable, schema up to date")
        with database.read() as connection:
            live = connection.execute(select(Worker.id, Worker.lanes).where(Worker.seen_at > db_now() - LIVE_S)).all()
        lanes = sorted({lane for worker in live for lane in worker.lanes})
        yield Finding("workers", True, f"{len(live)} live" + (f", lanes {', '.join(lanes)}" if lanes else ""))
    except StorageError as error:
        yield Finding("database", False, str(error), "check DOCMILL_DATABASE_URL; then `docmill db upgrade`")
    finally:
        database.close()


def _redis(settings: Settings) -> Iterator[Finding]:
    if settings.redis_url is None:
        try:
            with EmbeddedRedis() as embedded:
                broker = Broker(embedded.url)
                broker.ping()
                broker.close()
            yield Finding("redis", True, "DOCMILL_REDIS_URL is not set: the embedded server is used, and it starts")
        except WorkerError as error:
            yield Finding("redis", False, str(error), "set DOCMILL_REDIS_URL to a Redis that runs")
        return
    broker = Broker(settings.redis_url)
    try:
        facts = broker.server_facts()
    except WorkerError as error:
        yield Finding("redis", False, str(error), "start it, or correct DOCMILL_REDIS_URL")
        return
    finally:
        broker.close()
    unknown = facts["eviction"] == "unknown"
    evicts = not unknown and facts["eviction"] != "noeviction"
    advice = "it may throw queued hints away, which costs time: CONFIG SET maxmemory-policy noeviction"
    if not evicts:
        advice = "this user may use neither INFO nor CONFIG GET: see to maxmemory-policy yourself" if unknown else ""
    yield Finding("redis", not evicts, f"{broker}: {facts['version']}, eviction {facts['eviction']}", advice)


def _models(settings: Settings) -> Iterator[Finding]:
    for kind, name in models.DEFAULTS.items():
        try:
            pinned = models.pin(name, models_dir=settings.models_dir, cache_dir=settings.cache_dir)
            yield Finding("models", True, f"{kind}: {name} {pinned.revision[:19]}")
        except ModelError as error:
            yield Finding(
                "models", True, f"{kind}: {name} is not here ({error})", f"name another: --task {kind} --model M"
            )


def _device(_: Settings) -> Iterator[Finding]:
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    if probe.returncode == 0:
        yield Finding("device", True, f"torch {probe.stdout.strip()}")
    else:
        last = (probe.stderr.strip().splitlines() or ["no reason given"])[-1]
        yield Finding("device", False, f"torch does not start: {last}", "a machine that only enqueues needs none")


def _disk(settings: Settings) -> Iterator[Finding]:
    place = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    advice = "" if free >= LEAST_ROOM_BYTES else "results and models need room: set DOCMILL_HOME elsewhere"
    yield Finding("disk", free >= LEAST_ROOM_BYTES, f"{free / 1e9:,.1f} GB free in {settings.home}", advice)
