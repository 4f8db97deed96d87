"""Check an installation for common mistakes, and say how to repair each."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sqlalchemy import select

from docmill.storage.core.database import describe_pooling
from docmill.storage.core.schema import Worker, db_now
from docmill.storage.errors import DatabaseUnreachable, RightMissing, SchemaOutOfDate, StorageError
from docmill.storage.extras import LOCAL, install
from docmill.storage.leases.dispatch import LIVE_S
from docmill.storage.migrations import current, is_behind, require_current
from docmill.storage.readers.confinement import has_seccomp, landlock_abi
from docmill.tasks.errors import ModelError
from docmill.tasks.specs import pinning
from docmill.worker.engines import ask_torch, choose_devices, cuda_devices
from docmill.worker.errors import BrokerUnreachable, WorkerError
from docmill.worker.extras import EXTRAS
from docmill.worker.queue.broker import Broker
from docmill.worker.settings import ENQUEUE_LANE, Settings
from docmill.worker.stores import EmbeddedRedis, store_of

LEAST_ROOM_BYTES = 1_000_000_000
CLOCKS_APART_S = 3.0
OF_OTHERS = 0o077


@dataclass(frozen=True)
class Diagnosis:
    """The result of one check. `advice` says what to do; a check that passed may have advice, too."""

    what: str
    ok: bool
    detail: str
    advice: str = ""


def examine(settings: Settings) -> list[Diagnosis]:
    """Run all checks at the same time, since a silent server costs seconds, and so does the import of torch.

    A server that cannot be reached is a finding, never an exception.
    """
    with ThreadPoolExecutor(len(LOOKS)) as pool:
        return list(chain.from_iterable(pool.map(lambda look: list(look(settings)), LOOKS)))


def look_at_database(settings: Settings) -> Iterator[Diagnosis]:
    """Check that the database answers, its schema, its workers and its clock."""
    embedded = settings.database_url is None
    database = store_of(settings)
    file = database.file
    try:
        if file is not None and not file.exists():  # to connect would make it
            missing = "will be made by the first run" if embedded else "there is no such file"
            advice = "" if embedded else "correct DOCMILL_DATABASE_URL, or make it with `docmill db upgrade`"
            yield Diagnosis("database", embedded, f"{database}: {missing}", advice)
            return
        if embedded and is_behind(database):
            yield Diagnosis("database", True, f"{database}: the next run brings its schema up to date")
            return
        require_current(database)
        shared = "" if file is None or settings.redis_url is None else "only this machine's workers can use it"
        yield Diagnosis("database", True, f"{database}: reachable, schema {current(database)} is up to date", shared)
        with database.read() as transaction:
            columns = (Worker.device, Worker.lanes, Worker.device_problem)
            live = transaction.execute(select(*columns).where(Worker.seen_at > db_now() - LIVE_S)).all()
            before, theirs, after = time.time(), transaction.read_clock(), time.time()
        yield workers(live, is_fleet=None not in (settings.database_url, settings.redis_url))
        if database.server is not None:
            yield clock(database.server, before, theirs, after)
            yield from pooler(describe_pooling(database))
    except StorageError as error:
        yield Diagnosis("database", False, str(error), _database_advice(error))
    finally:
        database.close()


def workers(live: Sequence[Any], *, is_fleet: bool) -> Diagnosis:
    """Return a finding about the live workers, rows of (device, lanes, device_problem).

    In a fleet, where database and queue are servers of their own, jobs wait for a worker that can compute.
    """
    useless = [f"{worker.device}: {worker.device_problem}" for worker in live if worker.device_problem is not None]
    lanes = sorted({lane for worker in live if worker.device_problem is None for lane in worker.lanes})
    detail = f"{len(live)} live" + (f", lanes {', '.join(lanes)}" if lanes else "")
    if useless:
        advice = "repair the driver or the torch of that machine, or start the worker with --device cpu"
        return Diagnosis("workers", False, f"{detail}; {len(useless)} can compute nothing ({useless[0]})", advice)
    if is_fleet and not live:
        return Diagnosis("workers", False, detail, "jobs wait for one: start `docmill worker` with these settings")
    return Diagnosis("workers", True, detail)


def pooler(pooling: str | None) -> Iterator[Diagnosis]:
    """Yield a finding if a connection pooler is in front of PostgreSQL. docmill works with a pooler, so it passes."""
    if pooling is None:
        return
    advice = (
        "`docmill index add` builds with the server's own maintenance_work_mem here: raise it by "
        "ALTER ROLE … SET maintenance_work_mem, or make indexes without the pooler"
    )
    detail = f"a pooler such as PgBouncer is in front of PostgreSQL: {pooling}"
    yield Diagnosis("pooler", True, detail, advice)


def _database_advice(error: StorageError) -> str:
    if isinstance(error, SchemaOutOfDate):
        return ""  # its sentence says what to do
    if isinstance(error, RightMissing):
        return "docs/security.md has the rights of each user"
    if isinstance(error, DatabaseUnreachable):
        return "start it, let this machine connect, or correct DOCMILL_DATABASE_URL"
    return "try again; if the error comes back, see the server's log"


def look_at_redis(settings: Settings) -> Iterator[Diagnosis]:
    """Check that Redis answers, its eviction policy, its persistence and its clock."""
    if settings.redis_url is None:
        if not LOCAL.is_installed:
            stored = "DOCMILL_REDIS_URL is not set: workers find jobs in the database"
            yield Diagnosis("redis", True, stored)
            return
        try:
            with EmbeddedRedis() as embedded, closing(Broker(embedded.url)) as broker:
                broker.ping()
            alone = "" if settings.database_url is None else "workers on several machines need one Redis server"
            started = "DOCMILL_REDIS_URL is not set: the embedded server starts"
            yield Diagnosis("redis", True, started, alone)
        except WorkerError as error:
            yield Diagnosis("redis", False, str(error), "set DOCMILL_REDIS_URL to a running Redis")
        return
    try:
        with closing(Broker(settings.redis_url)) as broker:
            facts = broker.server_facts()
            before, theirs, after = time.time(), broker.clock(), time.time()
    except WorkerError as error:
        yield Diagnosis("redis", False, str(error), "start Redis, or correct DOCMILL_REDIS_URL")
        return
    yield eviction(str(broker), facts)
    # No result depends on persistence, so this check always passes.
    lost = "a restart loses the queue. docmill sends hints again. To keep messages of other programs: "
    advice = f"{lost}CONFIG SET appendonly yes" if facts["appendonly"] == "no" else ""
    yield Diagnosis("persistence", True, f"appendonly {facts['appendonly']}", advice)
    yield clock("Redis", before, theirs, after)


def eviction(server: str, facts: dict[str, str]) -> Diagnosis:
    """Judge the eviction policy of a server, which applies when its memory is full."""
    policy = facts["eviction"]
    advice = "it may evict queued hints, which costs time: CONFIG SET maxmemory-policy noeviction"
    if policy == "unknown":
        advice = "this user may use neither INFO nor CONFIG GET: check maxmemory-policy and appendonly yourself"
    elif policy == "noeviction":
        advice = ""
    fine = policy in {"noeviction", "unknown"}
    return Diagnosis("redis", fine, f"{server}: {facts['version']}, eviction {policy}", advice)


def clock(whose: str, before: float, theirs: float | None, after: float) -> Diagnosis:
    """Compare a server's clock with this machine's, read `before` and `after`, in seconds. None is unknown."""
    if theirs is None:
        return Diagnosis("clock", True, f"{whose} does not let this user read its clock")
    apart_s = max(before - theirs, theirs - after, 0.0)
    if apart_s <= CLOCKS_APART_S:
        return Diagnosis("clock", True, f"{whose} and this machine agree")
    order = "behind" if theirs < before else "ahead of"
    return Diagnosis(
        "clock",
        False,
        f"{whose} is {apart_s:,.0f} s {order} this machine",
        "leases and schedules use the database's clock, logs and certificates each machine's: set all of them by NTP",
    )


def look_at_models(settings: Settings) -> Iterator[Diagnosis]:
    """Check that the default models are on this machine."""
    for kind, name in pinning.DEFAULTS.items():
        try:
            pinned, _ = pinning.pin_with_adapter(name, None, settings.model_folders)
            revision = pinned.beside.get(pinning.ADAPTER_REVISION, pinned.revision)
            yield Diagnosis("models", True, f"{kind}: {name} {revision[:19]}")
        except OSError as error:
            said = f"{kind}: {name} cannot be read: {error.strerror} ({error.filename})"
            yield Diagnosis(
                "models", False, said, "the cache is in DOCMILL_HOME: set it to a folder that you can write to"
            )
        except ModelError as error:
            yield Diagnosis(
                "models",
                True,
                f"{kind}: {name} is not on this machine ({error})",
                f"choose another with `docmill run {kind} SOURCE --model MODEL`",
            )


def look_at_device(settings: Settings) -> Iterator[Diagnosis]:
    """Check that torch starts, and can use the devices that workers would use."""
    if not LOCAL.is_installed:
        yield Diagnosis("device", True, "this machine computes nothing: the models' libraries are not installed")
        return
    probe = ask_torch()
    if probe.returncode != 0:
        last = (probe.stderr.strip().splitlines() or ["no reason given"])[-1]
        yield Diagnosis(
            "device", False, f"torch does not start: {last}", "a machine that only enqueues needs no torch"
        )
        return
    version, n_cuda, threads = probe.stdout.split()[-3:]
    try:
        yield device(choose_devices(settings.device), version, int(n_cuda), int(threads))
    except WorkerError as error:
        yield Diagnosis("device", False, str(error), "correct DOCMILL_DEVICE, or repair the GPU's driver")


def device(chosen: list[str], torch_version: str, n_cuda: int, threads: int) -> Diagnosis:
    """Judge if a torch that sees `n_cuda` CUDA devices can use the chosen ones."""
    detail = f"{', '.join(chosen)}: torch {torch_version}, {threads} threads"
    unseen = [name for name in chosen if name.startswith("cuda:") and int(name.removeprefix("cuda:")) >= n_cuda]
    if not unseen:
        return Diagnosis("device", True, detail)
    advice = "install a torch that is built for this driver's CUDA, or set DOCMILL_DEVICE to an existing device"
    return Diagnosis("device", False, f"{detail}; torch sees {n_cuda} CUDA devices", advice)


def look_at_disk(settings: Settings) -> Iterator[Diagnosis]:
    """Check that the home can be written, and its free space."""
    place = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    elsewhere = "results and models need space: set DOCMILL_HOME to another folder"
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        yield Diagnosis("disk", False, f"cannot write in {place}: {error.strerror}", elsewhere)
        return
    free = shutil.disk_usage(place).free
    enough = free >= LEAST_ROOM_BYTES
    yield Diagnosis("disk", enough, f"{free / 1e9:,.1f} GB free in {settings.home}", "" if enough else elsewhere)


def look_at_rights(settings: Settings) -> Iterator[Diagnosis]:
    """Yield a finding where other users of the machine can read the home or the store."""
    with closing(store_of(settings)) as database:
        file = database.file
    for path in filter(None, (settings.home, file)):
        if path.exists() and path.stat().st_mode & OF_OTHERS:
            shown = f"other users of this machine can read {path}"
            rights = "700" if path.is_dir() else "600"
            yield Diagnosis("rights", True, shown, f"to prevent that: chmod {rights} {shlex.quote(str(path))}")


def look_at_temporary_folder(_: Settings) -> Iterator[Diagnosis]:
    """Check that libraries can be loaded from the temporary folder, where the library for PDF unpacks itself."""
    folder = tempfile.gettempdir()
    if os.statvfs(folder).f_flag & os.ST_NOEXEC:
        advice = "docmill cannot read PDF or compile kernels: mount it with exec, or set TMPDIR to another folder"
        yield Diagnosis("temporary folder", False, f"libraries cannot be loaded from {folder} (noexec)", advice)


def look_at_confinement(_: Settings) -> Iterator[Diagnosis]:
    """Yield a finding about the confinement of processes that read dangerous formats."""
    abi, seccomp = landlock_abi(), has_seccomp()  # a version of 0 is none
    by = [f"Landlock (version {abi})"] if abi else []
    by += ["seccomp"] if seccomp else []
    lacking = [name for name, has in (("Landlock", abi), ("seccomp, or the library libseccomp", seccomp)) if not has]
    advice = f"this system has no {' and no '.join(lacking)}: docs/security.md says what a hostile file can do"
    detail = f"readers of PDF, office, mail and table files have {' and '.join(by) or 'only limits'}"
    yield Diagnosis("confinement", True, detail, advice if lacking else "")


def look_at_extras(_: Settings) -> Iterator[Diagnosis]:
    """List the installed extras, and the use of each missing extra."""
    installed = [name for name, extra in EXTRAS.items() if extra.is_installed]
    yield Diagnosis("extras", True, f"installed: {', '.join(installed) or 'none'}")
    has_gpu = bool(cuda_devices())  # the driver's tool takes seconds where no process keeps the driver loaded
    missing = [extra for name, extra in EXTRAS.items() if name not in installed]
    for extra in missing:
        advice = f"to add one: {install('NAME')}" if extra is missing[-1] else ""
        yield Diagnosis("extras", True, f"without {extra.package(has_gpu=has_gpu)}: {extra.brings}", advice)


def look_at_orders(settings: Settings) -> Iterator[Diagnosis]:
    """Yield a finding about the orders of other programs; none if the store or the queue does not answer."""
    if settings.redis_url is None:
        return
    live = select(Worker.lanes).where(Worker.seen_at > db_now() - LIVE_S)
    queue, store = closing(Broker(settings.redis_url)), closing(store_of(settings))
    with suppress(StorageError, BrokerUnreachable), queue as broker, store as database:
        if database.file is None or database.file.exists():
            takers = sum(ENQUEUE_LANE in lanes for lanes in database.values(live))
            waiting = broker.depth(ENQUEUE_LANE)
            advice = f"docmill worker --lanes …,{ENQUEUE_LANE}, with DOCMILL_ORDER_ROOTS or DOCMILL_ORDER_SCHEMES"
            is_stuck = waiting > 0 and not takers
            taking = f"live workers that take orders: {takers:,}" if takers else "no live worker takes orders"
            shown = f"{waiting:,} in the queue; {taking}"
            yield Diagnosis("orders", not is_stuck, shown, f"start one that does: {advice}" if is_stuck else "")


LOOKS: tuple[Callable[[Settings], Iterator[Diagnosis]], ...] = (
    look_at_database,
    look_at_redis,
    look_at_orders,
    look_at_models,
    look_at_device,
    look_at_rights,
    look_at_temporary_folder,
    look_at_disk,
    look_at_confinement,
    look_at_extras,
)
