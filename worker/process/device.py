"""A device process: one device, one engine, a Celery worker whose threads share them.

It reads commands of its supervisor (`drain`, `stop`, `rest`, `serve N`) from standard input, and ends when that
closes. It reports to its supervisor on its standard output, as JSON lines.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from typing import IO, Any, NoReturn

from celery import Celery, Task, shared_task
from celery.concurrency.thread import ApplyResult, TaskPool
from celery.exceptions import Reject
from celery.worker import WorkController, state
from kombu.asynchronous import get_event_loop

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Spec
from docmill.storage.errors import LeaseLost, StorageError
from docmill.storage.json_values import GivenJson
from docmill.storage.leases import dispatch
from docmill.storage.outputs.output_types import TEXT, VECTOR, WEIGHTS
from docmill.tasks import kinds, tracing
from docmill.tasks.backends import devices
from docmill.tasks.engine.backend_factory import import_libraries
from docmill.tasks.engine.engine import Batch, Counters, Engine
from docmill.tasks.tracing import OFF, TraceSpan
from docmill.worker import logs
from docmill.worker.concurrency import pid_space
from docmill.worker.engines import freeze_after_opening, opener
from docmill.worker.process.counts import of_memory
from docmill.worker.process.device_start import DRAIN, REST, SERVE, STOP, DeviceConfig
from docmill.worker.process.shard import Process
from docmill.worker.queue.broker import Broker, RewritingRedis
from docmill.worker.queue.messages import (
    ENQUEUE_TASK,
    RUN_LANE,
    RUN_TASK,
    SHARD_TASK,
    Plain,
    parse_hint,
    queue,
)
from docmill.worker.settings import Settings
from docmill.worker.stores import store_of

LEAST_DELAY_S, LONGEST_DELAY_S = 2.0, 60.0  # until an order is tried again


@shared_task(name=SHARD_TASK, bind=True)  # type: ignore[untyped-decorator]
def run_shard(this: Task, /, **arguments: Plain) -> None:
    """Compute a shard, if its hint is still valid."""
    _, process, _ = this.app.context
    process.run_shard(parse_hint(SHARD_TASK, arguments), tracing.valid(this.request.get("traceparent")))


@shared_task(name=RUN_TASK, bind=True)  # type: ignore[untyped-decorator]
def run_pipeline(this: Task, /, **arguments: Plain) -> None:
    """Take a pipeline's run further."""
    from docmill.worker.pipelines.running import advance  # with its libraries, which `docmill run` does not need

    settings, process, database = this.app.context
    run_id = parse_hint(RUN_TASK, arguments)
    advance(settings, database, process.broker, run_id, owner=process.owner, stop=process.draining)


@shared_task(  # type: ignore[untyped-decorator]
    name=ENQUEUE_TASK, bind=True, acks_late=True, ignore_result=False, max_retries=None, throws=(ValueError,)
)
def take_order(this: Task, source: Plain = None, /, **arguments: Plain) -> int:
    """Read a source into a job, and return the job's number."""
    from docmill.worker.orders import AWAY, carry_out  # with the libraries of readers

    settings, process, database = this.app.context
    order = arguments if source is None else {**arguments, "source": source}
    try:
        return carry_out(settings, database, process.broker, this.request.id, order, process.draining)
    except LeaseLost as error:
        raise Reject(error, requeue=True) from error
    except AWAY as error:
        _try_later(this, error)


def _try_later(this: Task, error: Exception) -> NoReturn:
    """Send an order again, to be carried out later, or put it back if Redis takes no new message."""
    try:
        raise this.retry(exc=error, countdown=min(LONGEST_DELAY_S, LEAST_DELAY_S * 2 ** min(this.request.retries, 9)))
    except Reject as unsent:
        raise Reject(error, requeue=True) from unsent


def bind(app: Celery, settings: Settings, process: Process, database: Database) -> None:
    """Let the tasks of an app work with these things. ``database`` is for statements that may last."""
    app.set_default()  # Celery's threads would make another app, without settings
    app.context = settings, process, database
    # Celery runs some tasks that follow an error in this process. Its own tasks are not for orders.
    app.finalize()
    for name in [name for name in app.tasks if name.startswith("celery.")]:
        del app.tasks[name]


log = logging.getLogger("docmill.device")
Say = Callable[..., None]

BEAT_S = 0.5
SIGN_ON_S = 60.0
GIVE_BACK_S = 4.0
ASK_EVERY_S = 0.1  # for messages, in a process that ends with its job: it ends between two requests
# A thread that computes needs the interpreter for a moment between two products, hundreds of times in a batch; with
# Python's own 5 ms it would wait as long each time while another thread cuts texts or writes results.
SWITCH_S = 0.0005


def open_channel() -> Say:
    """Return the function that tells the supervisor of an event. Output that a library prints goes to stderr."""
    out: IO[bytes] = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    lock = threading.Lock()

    def say(event: str, **facts: GivenJson) -> None:
        # The supervisor may be gone; standard input says so, too.
        with lock, suppress(BrokenPipeError):
            out.write(json.dumps({"event": event, **facts}).encode() + b"\n")

    return say


class Presence:
    """The entry of this process in the list of workers, which it leaves while it rests."""

    def __init__(self, config: DeviceConfig, settings: Settings, process: Process) -> None:
        self._config, self._settings, self._process = config, settings, process
        self._lock = threading.Lock()
        self._rests = False
        self._due = 0.0

    def rest(self) -> None:
        """Leave the list. Shards in flight keep their leases."""
        with self._lock:
            self._rests = True
            _sign_off(self._process)

    def serve(self, only_job: int) -> None:
        """Enter the list again, for a job. If the store is away, the next heartbeat tries again."""
        with self._lock, suppress(StorageError):
            self._process.serve(only_job)
            self._rests, self._due = False, 0.0
            self._enter()

    def enter_at_last(self) -> None:
        """Enter the list as soon as the database answers. A drain ends the wait."""
        while True:
            try:
                with self._lock:
                    return self._enter()
            except StorageError as error:
                log.warning("sign_on_waits error=%s", error)
            if self._process.draining.wait(1.0):
                return None

    def renew(self, renew_leases: Callable[[], None]) -> None:
        """Renew the leases, and enter the list again: maintenance removes workers that were silent for long."""
        with self._lock:
            self._enter()
            if self._process.in_flight or not self._rests:
                renew_leases()

    def _enter(self) -> None:
        if self._rests or time.monotonic() < self._due:
            return
        dispatch.sign_on(
            self._process.heartbeat_database,
            self._config.owner,
            host=platform.node(),
            pid=os.getpid(),
            device=self._config.device,
            lanes=list(self._settings.lanes),
            slots=self._settings.threads,
            version=version("docmill"),
            pid_space=pid_space(),
        )
        self._due = time.monotonic() + SIGN_ON_S


class BatchSpans:
    """Begins a span with each batch, and ends it. `counters` are those of the engine."""

    def __init__(self, device: str, counters: Callable[[], Counters]) -> None:
        self._device = device
        self._counters = counters
        self._span: TraceSpan = OFF
        self._written = 0

    def follow(self, batch: Batch) -> None:
        """Begin or end the span of a batch."""
        if not tracing.is_on():
            return
        if batch.seconds is not None:
            self._span.set({"gen_ai.usage.output_tokens": self._counters().tokens_out - self._written})
            self._span.end()
            return
        self._written = self._counters().tokens_out
        operation, model = operation_of(batch.spec.kind), batch.spec.model
        about = tracing.model_use(operation, model, batch.tokens)
        about |= {"docmill.device": self._device, "docmill.windows": batch.windows}
        about |= {"docmill.padded_tokens": batch.padded_tokens}
        self._span = tracing.begin_batch(model, operation, batch.traceparents, about)


def operation_of(kind: str) -> str:
    """Return the operation of a kind of task, by the convention's names where it has one."""
    names = {TEXT: "text_completion", VECTOR: "embeddings", WEIGHTS: "embeddings"}
    return names.get(kinds.kind(kind).output, kind)


class WakingThreadPool(TaskPool):  # type: ignore[misc]
    """A pool that wakes Celery as soon as a thread is free.

    While all threads are busy, Celery asks for no message, and would look for a free thread only once a second.
    """

    def on_apply(self, *args: Any, **kwargs: Any) -> ApplyResult:
        result = super().on_apply(*args, **kwargs)
        result.f.add_done_callback(wake)
        return result


def wake(_: object = None) -> None:
    """Wake Celery's loop, so that it asks for a message, or stops if it has to. Any thread may call this."""
    loop = get_event_loop()
    if loop is not None:  # none any more at the end
        loop.call_soon(_look)


def _look() -> None:
    """Do nothing: the loop asks for messages as its next turn begins."""


def main() -> None:
    """Run until told otherwise."""
    sys.setswitchinterval(SWITCH_S)
    sys.stderr = logs.ignore_write_errors(sys.stderr)
    say = open_channel()
    config = _read_config()
    if config is None:  # whoever started this process ended without a configuration for it
        return
    for unheard in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(unheard, signal.SIG_IGN)  # the supervisor owns signals
    settings = Settings.model_validate(config.settings)
    logs.start(settings.log_level, settings.log_format, worker=config.owner)
    tracing.start(settings.traces_endpoint, **{"service.instance.id": config.owner})
    logging.getLogger("celery").setLevel(logging.ERROR)
    logging.getLogger("kombu").setLevel(logging.ERROR)  # that it puts back what it fetched is nothing to warn of
    # A message that cannot be acknowledged comes again and does nothing. Celery logs it as a critical error.
    logging.getLogger("celery.worker.request").addFilter(_without_traceback)
    assert settings.redis_url is not None
    broker = Broker(settings.redis_url, None if config.only_job is None else ASK_EVERY_S)
    process = _make_process(config, settings, broker, say)
    # Reading a source and writing results take statements that may last.
    bind(broker.app, settings, process, store_of(settings, pool_size=5))
    controller = WorkController(
        app=broker.app,
        pool_cls=WakingThreadPool,  # CUDA does not survive a fork, and one model serves all threads
        concurrency=settings.threads,
        queues=[queue(lane) for lane in (*settings.lanes, RUN_LANE)],
        hostname=config.owner,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        optimization="fair",
    )
    presence = Presence(config, settings, process)
    threading.Thread(target=_obey, args=(process, presence), name="obey", daemon=True).start()
    presence.enter_at_last()
    beat = (config, process, settings, say, presence)
    threading.Thread(target=_beat, args=beat, name="heartbeat", daemon=True).start()
    threading.Thread(target=process.keep_for_ever, name="keep", daemon=True).start()
    say("ready")
    controller.start()
    process.engine.close()
    code = 0 if _sign_off(process) else 1
    tracing.stop()
    say("ended")
    sys.stdout.flush()
    os._exit(code)  # threads of libraries must not keep a drained process alive


def _read_config() -> DeviceConfig | None:
    """Return the configuration. Until it comes, import the libraries of expected specs."""
    for line in iter(sys.stdin.buffer.readline, b""):
        values = json.loads(line)
        if "spec" not in values:
            return DeviceConfig(**values)
        _import_for(**values)
    return None


def _import_for(spec: str, device: str, settings: dict[str, Any]) -> None:
    loaded = Settings.model_validate(settings)
    import_libraries(Spec.from_json(spec.encode()), device, loaded.model_folders, loaded.backend)


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = None
    return True


def _make_process(config: DeviceConfig, settings: Settings, broker: Broker, say: Say) -> Process:
    def on_batch(batch: Batch) -> None:
        spans.follow(batch)
        if batch.seconds is None:
            kind = f"batch {batch.spec.sha256.hex()[:12]}"
            say("begin", name="batch", kind=kind, size=batch.load_tokens)
        else:
            say("end", name="batch")

    engine = Engine(freeze_after_opening(opener(settings, config.device, journaled=True)), on_batch=on_batch)
    spans = BatchSpans(config.device, lambda: engine.counters)
    engine.start()
    bounded = replace(settings.patience, bounded=True)
    return Process(
        owner=config.owner,
        # A thread holds a connection only to claim, read and commit; most of them wait for the device.
        database=store_of(settings, pool_size=min(settings.threads, 3) + 4, patience=bounded),
        heartbeat_database=store_of(settings, pool_size=1, patience=bounded),
        broker=broker,
        engine=engine,
        lease_s=settings.lease_s,
        say=say,
        only_job=config.only_job,
    )


def _sign_off(process: Process, *, giving_back: bool = False) -> bool:
    """Leave the list of workers, with `giving_back` after giving back all shards.

    Return False if the database is unreachable. Other workers then free the shards.
    """
    try:
        if giving_back:
            process.give_back()
        dispatch.sign_off(process.database, process.owner)
    except StorageError as error:
        log.warning("sign_off_failed error=%s", error)
        return False
    return True


def _obey(process: Process, presence: Presence) -> None:
    """Carry out the supervisor's commands. When it says `stop` or dies, give everything back and end."""
    for line in sys.stdin.buffer:
        word = line.decode().strip()
        if word == REST:
            presence.rest()
        elif word.startswith(SERVE):
            presence.serve(int(word.removeprefix(SERVE)))
        elif word == DRAIN:
            # On a thread of its own, since the batch on the device may take long and a stop must still be heard.
            threading.Thread(target=_drain, args=(process,), name="drain", daemon=True).start()
        elif word == STOP:
            break
    # The store may be away: a supervisor that lives would kill us as soon.
    giving_back = threading.Thread(target=_give_back, args=(process,), name="give-back", daemon=True)
    giving_back.start()
    giving_back.join(GIVE_BACK_S)
    os._exit(1)  # the supervisor frees what we hold


def _give_back(process: Process) -> None:
    if _sign_off(process, giving_back=True):
        tracing.stop()
        os._exit(0)


def _drain(process: Process) -> None:
    state.should_stop = 0  # first: during a long drain, a free thread would take hints only to put them back
    wake()
    process.drain()


def _consumes(within_s: float) -> bool:
    """Return True if this process consumes messages.

    Celery does not ask the queue while all threads work, so a message in progress counts, too.
    """
    return bool(state.active_requests) or time.monotonic() - RewritingRedis.heard_at < within_s


def _beat(config: DeviceConfig, process: Process, settings: Settings, say: Say, presence: Presence) -> None:
    """Renew leases well before they expire, and report the progress of the texts in flight."""
    every = min(5.0, settings.lease_s / 6)
    due = 0.0

    def renew_leases() -> None:
        process.heartbeat(consumes=_consumes(2 * every), time_use=process.lately())

    while True:
        now = time.monotonic()
        if now >= due:
            due = now + every
            try:
                presence.renew(renew_leases)
            except StorageError as error:
                log.warning("heartbeat_failed error=%s", error)
        say(
            "beat",
            finished=sum(process.computed().values()),
            counts=process.counts(),
            gauges=of_memory(devices.memory(config.device)),
        )
        time.sleep(BEAT_S)


if __name__ == "__main__":
    main()
