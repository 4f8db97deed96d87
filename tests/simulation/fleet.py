"""Hosts with docmill's own supervisors and device processes, on a simulated queue and model.

Celery, Redis, pipes, signals and the engine are doubles. Everything between them is docmill's code: supervisor,
maintenance, heartbeats, dispatcher, the processing of shards, and the runs of pipelines.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from queue import Empty
from types import ModuleType
from typing import Any, TypeVar, cast
from unittest import mock

from docmill.storage import fault_points
from docmill.storage.core import database
from docmill.storage.core.specs import Outcome, Reason, Spec, Status
from docmill.storage.errors import StorageError
from docmill.storage.leases import maintenance, shards
from docmill.storage.pipelines import pipelines
from docmill.tasks.backends.devices import Memory
from docmill.tasks.engine import tickets
from docmill.tasks.engine.engine import Counters
from docmill.tasks.engine.tickets import Ticket
from docmill.tasks.errors import CannotServe, EngineStopped
from docmill.worker import concurrency
from docmill.worker.errors import BrokerUnreachable
from docmill.worker.pipelines.running import advance
from docmill.worker.process import device, maintenance_thread, shard, supervisor
from docmill.worker.process.counts import TimeUse
from docmill.worker.process.device import Presence
from docmill.worker.process.device_start import DeviceConfig
from docmill.worker.process.shard import Breaker, InFlight, Process
from docmill.worker.process.supervisor import Supervisor
from docmill.worker.queue.messages import RUN_LANE, RUN_TASK, SHARD_TASK, hint_arguments, parse_hint
from docmill.worker.settings import Settings
from docmill.worker.submit import enqueue
from tests.simulation.scheduler import Namespace, Scheduler, SimEvent, SimPipe, SimProcess, SimQueue, SimThread
from tests.simulation.store import Store, expected

T = TypeVar("T")

MESSAGE_S = 0.002
# Supervisors and device processes check less often than real ones, so that nights take less time.
TICK_S = 5.0
BEAT_S = 15.0
TEXT_S = 5.0  # of device time
READ_S = 30.0  # the longest time for a few records of a source
BATCH = 4  # texts, of any shards
KILLS, HANGS, FAILS, RAISES = "⟦kills⟧", "⟦hangs⟧", "⟦fails⟧", "⟦raises⟧"  # what a text does to its worker
LANES = ("translate", "summarize", RUN_LANE)


class Queue:
    """The messages in Redis: some are lost, late, doubled or out of order; all may be deleted or unreachable."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.away: set[str] = set()  # hosts that cannot reach it
        self.loses = self.doubles = self.delays = 0.0  # probabilities for each message
        self._scheduler = scheduler
        self._waiting: dict[str, list[tuple[float, dict[str, int]]]] = {lane: [] for lane in LANES}
        self._changed = SimEvent(scheduler)

    def flush(self) -> None:
        for messages in self._waiting.values():
            messages.clear()

    def put(self, lane: str, message: dict[str, int]) -> None:
        rng = self._scheduler.rng
        if rng.random() < self.loses:
            return
        for _ in range(2 if rng.random() < self.doubles else 1):
            late_s = rng.uniform(0.0, 60.0) if rng.random() < self.delays else 0.0
            self._waiting[lane].append((self._scheduler.now + late_s, message))
        self._changed.set()

    def depth(self, lane: str) -> int:
        return len(self._waiting[lane])

    def take(self) -> tuple[str, dict[str, int]] | None:
        """Return a message that has arrived in any lane, and its lane."""
        arrived = [
            (lane, place)
            for lane, messages in self._waiting.items()
            for place, (at, _) in enumerate(messages)
            if at <= self._scheduler.now
        ]
        if not arrived:
            return None
        lane, place = self._scheduler.rng.choice(arrived)
        return lane, self._waiting[lane].pop(place)[1]

    def wait(self) -> None:
        """Wait for a message, or for some seconds."""
        self._changed.clear()
        self._changed.wait(15.0)


class Broker:
    """`worker.queue.broker.Broker` as a process has it."""

    url = "redis://simulated"

    def __init__(self, queue: Queue, process: SimProcess) -> None:
        self._queue = queue
        self._process = process

    def ping(self) -> None:
        self._process.scheduler.pause(MESSAGE_S)
        if self._process.host in self._queue.away:
            raise BrokerUnreachable("the queue does not answer: the night's fault")

    def depth(self, lane: str) -> int:
        self.ping()
        return self._queue.depth(lane)

    def publish(self, lane: str, shard_ids: Collection[int], *, ahead: bool = False) -> None:  # in any order
        for shard_id in shard_ids:
            self.ping()
            self._queue.put(lane, hint_arguments(SHARD_TASK, shard_id))

    def publish_run(self, run_id: int) -> None:
        self.ping()
        self._queue.put(RUN_LANE, hint_arguments(RUN_TASK, run_id))

    def take(self) -> tuple[str, dict[str, int]] | None:
        with suppress(BrokerUnreachable):
            self.ping()
            return self._queue.take()
        return None


class Model:
    """`tasks.engine.engine.Engine`: a device thread that computes batches of texts from any shards."""

    error: BaseException | None = None

    def __init__(self, fleet: Fleet, process: SimProcess, say: Callable[..., None]) -> None:
        self.counters = Counters()
        self._fleet = fleet
        self._process = process
        self._say = say
        self._opened: set[str] = set()
        self._waiting: list[tuple[Ticket, str, int, int, str]] = []
        self._arrived = SimEvent(fleet.scheduler)
        self._stopped = False
        self._tickets: list[Ticket] = []
        process.start(self._compute, name="engine")

    def open(self, spec: Spec) -> None:
        if self._stopped:
            raise EngineStopped
        if spec.kind not in self._opened:
            self._fleet.scheduler.sleep(self._fleet.scheduler.rng.uniform(1.0, 20.0))
            if self._fleet.scheduler.rng.random() < self._fleet.refuses:
                raise CannotServe("no memory for the model: the night's fault")
            self._opened.add(spec.kind)

    @contextmanager
    def hold(self, spec: Spec) -> Iterator[dict[str, Any]]:
        yield {"device": "cpu", "precision": "float32", "backend": spec.kind, "versions": {}}

    def runtime_since(self, spec: Spec, before: Mapping[str, Any]) -> Mapping[str, Any]:
        return before

    def submit(self, spec: Spec, texts: Sequence[tuple[int, str]], _: str | None = None) -> Ticket:
        if self._stopped:
            raise EngineStopped
        if any(RAISES in text for _, text in texts):
            raise RuntimeError("a text that cutting does not survive: the night's fault")
        ticket = Ticket([content_id for content_id, _ in texts], lambda _: None)
        self._tickets.append(ticket)
        self._waiting += [(ticket, spec.kind, place, *text) for place, text in enumerate(texts)]
        self._arrived.set()
        return ticket

    def forget_stored(self, *_: object) -> None:
        pass

    def drain(self) -> None:
        self._stopped = True
        self._arrived.set()
        for ticket in self._tickets:
            ticket._woken.set()

    def close(self) -> None:
        self.drain()

    def _compute(self) -> None:
        scheduler = self._fleet.scheduler
        while not self._stopped:
            self._waiting = [work for work in self._waiting if not work[0].dropped]
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            if not batch:
                self._arrived.clear()
                self._arrived.wait(None)
                continue
            self._say("begin", name="batch", kind="batch", size=len(batch))
            scheduler.sleep(TEXT_S * scheduler.rng.uniform(0.5, 2.0) * len(batch))
            texts = [text for *_, text in batch]
            if any(HANGS in text for text in texts):
                scheduler.sleep(1e6)  # the supervisor's watchdog kills it
            if any(KILLS in text for text in texts):
                self._process.exit(-11)
            self._say("end", name="batch")
            for ticket, kind, place, content_id, text in batch:
                self._fleet.computed[kind, text] = self._fleet.computed.get((kind, text), 0) + 1
                ticket.settle(place, _outcome(kind, content_id, text))


def _outcome(kind: str, content_id: int, text: str) -> Outcome:
    if FAILS in text:
        return Outcome(content_id, Status.FAILED, reason="it has no words", reason_class=Reason.DOCUMENT)
    return Outcome(content_id, Status.DONE, text=expected(kind, text), tokens_in=1, tokens_out=1)


class Fleet:
    """The hosts of a night, its store and its queue."""

    def __init__(self, scheduler: Scheduler, store: Store, settings: Settings) -> None:
        self.scheduler = scheduler
        self.store = store
        self.settings = settings
        self.queue = Queue(scheduler)
        self.refuses = 0.0  # the probability that a model does not open
        self.computed: dict[tuple[str, str], int] = {}  # the number of computations by kind and text
        self.supervisors: dict[str, tuple[SimProcess, Supervisor]] = {}
        self.devices: dict[str, list[SimProcess]] = {}

    def broker(self, process: SimProcess) -> Any:
        return Broker(self.queue, process)

    def boot(self, host: str, n_devices: int) -> None:
        """Start `docmill worker` on a host."""
        process = SimProcess(self.scheduler, f"{host}/worker", host)
        started = cast(Any, Namespace(take=lambda: self._start_device(process)))
        names = [f"cpu{n}" for n in range(n_devices)]
        own_database, broker = self.store.database_of(process), self.broker(process)
        self.devices.setdefault(host, [])
        process.start(self._supervise, process, own_database, broker, names, started)

    def _supervise(self, process: SimProcess, own_database: Any, broker: Any, names: list[str], started: Any) -> None:
        here = Supervisor(self.settings, own_database, broker, names, started=started)
        here._maintenance._wake = SimEvent(self.scheduler)  # type: ignore[assignment]
        here._maintenance._stop = SimEvent(self.scheduler)  # type: ignore[assignment]
        thread: Any = SimThread(self.scheduler, target=here._maintenance._run, name="maintenance", daemon=True)
        here._maintenance._thread = thread
        self.supervisors[process.host] = (process, here)
        here.run()
        process.exit(0)

    def is_alive(self, host: str) -> bool:
        return host in self.supervisors and self.supervisors[host][0].returncode is None

    def is_draining(self, host: str) -> bool:
        return self.is_alive(host) and self.supervisors[host][1]._draining

    def processes(self, host: str | None = None) -> list[SimProcess]:
        """Return the living supervisors and device processes, of a host or of all hosts."""
        alive = [process for process, _ in self.supervisors.values()]
        alive += [process for processes in self.devices.values() for process in processes]
        return [process for process in alive if process.returncode is None and host in {None, process.host}]

    def _start_device(self, parent: SimProcess) -> SimProcess:
        process: Any = SimProcess(self.scheduler, f"{parent.host}/device", parent.host)
        process.name += f"{process.pid}"
        process.stdin, process.stdout = SimPipe(self.scheduler), SimPipe(self.scheduler)
        process.at_exit += [process.stdin.close, process.stdout.close]
        parent.at_exit.append(process.stdin.close)
        alive = [device for device in self.devices[parent.host] if device.returncode is None]
        self.devices[parent.host] = [*alive, process]
        process.start(self._run_device, process)
        return cast(SimProcess, process)

    def _run_device(self, own_process: Any) -> None:
        """`worker.process.device.main` without Celery."""
        line = own_process.stdin.readline()
        if not line:
            return
        config = DeviceConfig(**json.loads(line))
        settings, broker = self.settings, Broker(self.queue, own_process)

        def say(event: str, **facts: Any) -> None:
            with suppress(BrokenPipeError):
                own_process.stdout.write(json.dumps({"event": event, **facts}).encode() + b"\n")

        process = Process(
            owner=config.owner,
            database=self.store.database_of(own_process),
            broker=cast(Any, broker),
            engine=cast(Any, Model(self, own_process, say)),
            lease_s=settings.lease_s,
            say=say,
            only_job=config.only_job,
        )
        process.breaker, process.time_use = Breaker(lambda: self.scheduler.now), TimeUse(lambda: self.scheduler.now)
        presence = Presence(config, settings, process)
        own_process.start(device._obey, process, presence, name="obey")
        presence.enter_at_last()
        own_process.start(device._beat, config, process, settings, say, presence, name="heartbeat")
        own_process.start(process.keep_for_ever, name="keep")
        say("ready")
        slots = [
            own_process.start(self._serve, own_process, process, broker, name=f"slot{n}")
            for n in range(settings.threads)
        ]
        for slot in slots:
            slot.join()
        process.engine.close()
        own_process.exit(0 if device._sign_off(process) else 1)

    def _serve(self, own_process: SimProcess, process: Process, broker: Broker) -> None:
        """Run a thread of Celery's pool: a message leaves the queue before its work begins."""
        while not process.draining.is_set():
            taken = broker.take()
            if taken is None:
                self.queue.wait()
                continue
            lane, message = taken
            self.scheduler.note(f"takes {lane} {message}")
            self.scheduler.current.memory.clear()
            if lane != RUN_LANE:
                process.run_shard(parse_hint(SHARD_TASK, message))
                continue
            with suppress(StorageError):  # Celery logs it
                own_database = self.store.database_of(own_process)
                advance(
                    self.settings,
                    own_database,
                    process.broker,
                    parse_hint(RUN_TASK, message),
                    owner=process.owner,
                    stop=cast(Any, process.draining),
                )


@contextmanager
def on_virtual_time(fleet: Fleet) -> Iterator[None]:
    """Replace time and threads in docmill's modules by the scheduler's, and let tasks remember their claims."""
    scheduler = fleet.scheduler
    doubles = scheduler.doubles()
    uses = {
        database: ("time",),
        shard: ("time", "threading", "os"),
        supervisor: ("time", "threading", "platform", "uuid", "os"),
        maintenance_thread: ("time",),
        concurrency: ("threading",),
        device: ("time", "threading", "platform", "os"),
        tickets: ("threading",),
        enqueue: ("time", "uuid"),
    }
    device_sys = Namespace(stdin=Namespace())
    type(device_sys.stdin).buffer = property(lambda _: cast(Any, scheduler.current.process).stdin)  # type: ignore[attr-defined]
    replacements: dict[ModuleType, dict[str, Any]] = {
        shard: {
            "LOOK_S": TICK_S,
            "KEEP_EVERY_S": TICK_S,
            "InFlight": lambda head, claim: InFlight(head, claim, lost=cast(Any, SimEvent(scheduler))),
        },
        supervisor: {"SimpleQueue": lambda: SimQueue(scheduler, Empty), "TICK_S": TICK_S},
        maintenance_thread: {
            "pid_space": lambda: scheduler.current.process.host,
            "is_gone": lambda pid: pid not in {process.pid for process in fleet.processes()},
        },
        device: {
            "sys": device_sys,
            "state": Namespace(active_requests=()),
            "version": lambda _: "0",
            "wake": lambda: None,
            "RewritingRedis": Namespace(heard_at=math.inf),
            "devices": Namespace(memory=lambda _: Memory(None, None, None)),
            "pid_space": lambda: scheduler.current.process.host,
            "BEAT_S": BEAT_S,
        },
        enqueue: {"prefetch": functools.partial(_slowly, scheduler)},
        fault_points: {"reach": lambda _: scheduler.pause(MESSAGE_S)},
        shards: {
            **{name: _remembering("claim", 1, getattr(shards, name)) for name in ("commit", "release")},
            "keep": _remembering("finished", 1, shards.keep),
        },
        maintenance: {"failed_attempt": _remembering("claim", 1, maintenance.failed_attempt)},
        pipelines: {"note": _remembering("run", 1, pipelines.note)},
    }
    with ExitStack() as stack:
        for module, names in uses.items():
            for name in names:
                stack.enter_context(mock.patch.object(module, name, doubles[name]))
        for module, values in replacements.items():
            for name, value in values.items():
                stack.enter_context(mock.patch.object(module, name, value))
        yield


def _slowly(scheduler: Scheduler, values: Iterable[T]) -> Iterator[T]:
    """Yield the parts of a source slowly, as if it were far away."""
    for value in values:
        scheduler.sleep(scheduler.rng.uniform(0.0, READ_S))
        yield value


def _remembering(name: str, place: int, act: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that its task remembers one of its arguments while it runs."""

    @functools.wraps(act)
    def remembering(own_database: Any, *args: Any, **more: Any) -> Any:
        memory = own_database._process.scheduler.current.memory
        memory[name] = args[place - 1]
        try:
            return act(own_database, *args, **more)
        finally:
            del memory[name]

    return remembering
