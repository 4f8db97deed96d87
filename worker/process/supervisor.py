"""The supervisor: one child for each device, signals, watchdog and maintenance. Never imports torch.

The watchdog sits here and not in the child, because a frozen child may hold its interpreter's lock.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from types import FrameType

from docmill.storage.core.database import Database
from docmill.worker.process.counts import WorkByDevice
from docmill.worker.process.device_start import (
    CUT,
    DRAIN,
    REST,
    SERVE,
    STOP,
    DeviceConfig,
    StartedDevices,
    close_pipes,
)
from docmill.worker.process.maintenance_thread import MaintenanceThread
from docmill.worker.queue.broker import Broker
from docmill.worker.settings import Settings

log = logging.getLogger("docmill.supervisor")

TICK_S = 0.1
NEWS = frozenset({"ready", "refused", "idle"})  # events of a child after which a job may have ended
LEAST_NEWS_S = 0.05  # between two looks at the store, however often a child runs out of work
FROZEN_S = 2.0  # a tick that is so late shows that this process was suspended
LONGEST_RESTART_S = 30.0
KILL_AFTER_S = 4.0  # a child gives its shards back within device.GIVE_BACK_S


@dataclass
class Child:
    """A device process as its supervisor sees it."""

    device: str
    owner: str
    process: subprocess.Popen[bytes]
    started_at: float
    watchdog: Watchdog
    finished: float = 0.0  # texts computed and not yet committed
    ready: bool = False
    worked: bool = False  # it ended a batch
    server_away: bool = False  # it refused its last spec because the model's server does not answer or is busy
    reader: threading.Thread | None = field(default=None, repr=False)

    def tell(self, word: str) -> None:
        self.send(f"{word}\n".encode())

    def send(self, line: bytes) -> None:
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(line)
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            log.debug("child_gone owner=%s", self.owner)


def restart_delay(idle_deaths: int) -> float:
    """Return the seconds to wait before a dead child is replaced.

    `idle_deaths` is the number of children in a row that died before they ended a batch. A child that had worked is
    replaced at once, and so is the first that had not: a document that kills its process does so four times before it
    is isolated, and there may be a hundred such documents.
    """
    return min(LONGEST_RESTART_S, 2.0 ** (idle_deaths - 2)) if idle_deaths > 1 else 0.0


class Supervisor:
    """Keeps one child per device alive, and maintains the store. `run` blocks; `serve` runs it on a thread.

    `fires` lets it start pipelines that are due: `docmill worker` does so, and `docmill run` does not.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        broker: Broker,
        devices: Sequence[str],
        *,
        fires: bool = True,
        started: StartedDevices | None = None,
    ) -> None:
        self._started = started or StartedDevices(0)
        self._settings = settings
        self._broker = broker
        self._devices = list(devices)
        self.owner = f"{platform.node()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self.work = WorkByDevice(devices)
        self._children: dict[str, Child] = {}
        self._deaths: dict[str, int] = {}
        self._restart_at: dict[str, float] = {}
        self._draining = False
        self._at_once = False
        # A signal handler may interrupt code that holds an Event's lock, and would wait for it. A put never waits.
        self._woken: SimpleQueue[None] = SimpleQueue()
        self._news = threading.Event()
        self._watchdogs = {device: Watchdog(settings.hang_s, settings.batch_limit_s) for device in devices}
        self._maintenance = MaintenanceThread(
            database,
            broker,
            self.owner,
            settings.upkeep_s,
            settings.lease_s,
            fires=fires,
            ages=settings.ages,
            has_own_queue=broker.url != settings.redis_url,
        )
        self._thread: threading.Thread | None = None

    def rest(self) -> None:
        """Have the children leave the list of workers and keep their models, until `serve` names another job."""
        self._maintenance.rest()
        for child in self._living:
            child.tell(REST)

    def serve(self, only_job: int) -> None:
        """Work for this job: start, or go on after `rest`.

        Other jobs' shards are offered only while other workers live.
        """
        for child in self._living:
            child.tell(f"{SERVE}{only_job}")
        self._maintenance.serve(only_job)
        if not self.is_running:
            self._thread = threading.Thread(target=self.run, name="supervisor", daemon=True)
            self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def _living(self) -> list[Child]:
        """The children now, as a copy: `run` changes the dict on another thread."""
        return list(self._children.values())

    @property
    def owners(self) -> set[str]:
        """The names of the children in the list of workers."""
        return {child.owner for child in self._living}

    def drain(self, *, now: bool = False) -> None:
        """Ask for the end: batches finish, or with `now` everything is given back at once. Returns at once."""
        self._at_once = self._at_once or now
        self._draining = True
        self._woken.put(None)

    def join(self) -> None:
        """Wait for the end of the thread."""
        while self.is_running:  # an interrupted `Thread.join` takes the thread for ended, before Python 3.13
            time.sleep(TICK_S / 2)

    def wait_for_news(self, seconds: float) -> None:
        """Return once a child is ready, has run out of work or has refused a spec, or after `seconds`."""
        asked_at = time.monotonic()
        if self._news.wait(seconds):
            time.sleep(max(0.0, LEAST_NEWS_S - (time.monotonic() - asked_at)))
        self._news.clear()

    @property
    def finished_in_flight(self) -> float:
        """Return the number of texts that the children have computed and not yet committed."""
        return sum(child.finished for child in self._living)

    @property
    def server_away(self) -> bool:
        """True if a device process refuses its work because the server of a model does not answer or is busy."""
        return any(child.server_away for child in self._living)

    @property
    def ready(self) -> bool:
        return any(child.ready for child in self._living)

    @property
    def deaths(self) -> int:
        """The number of children, of all devices, that died in a row before they ended a batch."""
        return sum(self._deaths.values())

    def run_with_signals(self) -> None:
        """Run until SIGTERM or SIGINT: the first drains, the second (or SIGQUIT) gives everything back at once."""

        def on_signal(number: int, _frame: FrameType | None) -> None:
            self.drain(now=self._draining or number == signal.SIGQUIT)

        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
        for number in numbers:
            signal.signal(number, on_signal)
        self.run()
        for number in numbers:  # a signal that comes now must not make a clean end look like a death
            signal.signal(number, signal.SIG_IGN)

    def run(self) -> None:
        """Keep children and store going until asked to drain; then drain, within the settings' time."""
        self._maintenance.start()
        last = time.monotonic()
        while not self._draining:
            self._watch(frozen_s=time.monotonic() - last - TICK_S)
            last = time.monotonic()
            self._tend_children()
            with suppress(Empty):
                self._woken.get(timeout=TICK_S)
        self._drain_children()
        self._maintenance.stop()

    def _tend_children(self) -> None:
        for device in self._devices:
            child = self._children.get(device)
            if child is not None and child.process.poll() is not None:
                self._bury(child)
            is_due = time.monotonic() >= self._restart_at.get(device, 0.0)
            if device not in self._children and is_due and not self._maintenance.is_resting:
                try:
                    self._children[device] = self._spawn(device)
                except (OSError, RuntimeError) as error:  # no more memory, processes or threads at the moment
                    log.error("device_not_started device=%s error=%s", device, error)
                    self._put_off(device, self._deaths.get(device, 0) + 1)

    def _put_off(self, device: str, idle_deaths: int) -> None:
        """Delay the device's next child by `restart_delay(idle_deaths)`."""
        self._deaths[device] = idle_deaths
        self._restart_at[device] = time.monotonic() + restart_delay(idle_deaths)

    def _spawn(self, device: str) -> Child:
        owner = f"{platform.node()}:{device}:{uuid.uuid4().hex[:12]}"
        process = self._started.take()
        settings = self._settings.model_copy(update={"redis_url": self._broker.url})
        self._watchdogs[device].forget_open()
        self._maintenance.adopt(owner)
        child = Child(device, owner, process, time.monotonic(), self._watchdogs[device])
        reader = threading.Thread(target=self._listen, args=(child,), name=f"listen-{device}", daemon=True)
        try:
            reader.start()
        except RuntimeError:  # no more threads
            process.kill()
            self._close_pipes(child)
            raise
        child.reader = reader
        config = DeviceConfig(owner, device, settings.model_dump(mode="json"), self._maintenance.only_job)
        child.send(config.to_line())
        return child

    def _listen(self, child: Child) -> None:
        assert child.process.stdout is not None
        for line in child.process.stdout:
            try:
                event = json.loads(line)
                name = event["event"]
            except (ValueError, TypeError, KeyError):  # a library printed it before the process had its channel
                log.warning("device_printed device=%s line=%r", child.device, line[:200])
                continue
            if name in NEWS:
                self._news.set()
            if name == "ready":
                child.ready = True
            elif name == "refused":
                child.server_away = event["server_away"]
            elif name == "beat":
                child.finished = event["finished"]
                self.work.report(child.device, event["counts"], event["gauges"])
            elif name == "begin":
                child.watchdog.begin(Activity(event["name"], event["kind"], event["size"], time.monotonic()))
            elif name == "end":
                child.worked = child.worked or event["name"] == "batch"
                child.watchdog.end(event["name"], time.monotonic())

    def _bury(self, child: Child) -> None:
        """Free the shards of a child that died, and start another in its place."""
        lived_s = time.monotonic() - child.started_at
        self._put_off(child.device, 0 if child.worked else self._deaths.get(child.device, 0) + 1)
        del self._children[child.device]
        log.error("device_died device=%s status=%s lived_s=%.0f", child.device, child.process.returncode, lived_s)
        self._close_pipes(child)
        self.work.ended(child.device)
        self._maintenance.reap(child.owner)

    def _watch(self, frozen_s: float) -> None:
        """Kill a child whose batch or cutting hangs. Time in which this process was suspended too does not count."""
        for child in self._children.values():
            if frozen_s > FROZEN_S:
                child.watchdog.forgive(frozen_s)
            activity = child.watchdog.hung(time.monotonic())
            if activity is not None:
                name = CUT if activity.kind == CUT else activity.name
                after_s = time.monotonic() - activity.since
                log.error("%s_hangs device=%s after_s=%.0f activity=%r", name, child.device, after_s, activity.name)
                child.watchdog.forget_open()
                child.process.kill()

    def _drain_children(self) -> None:
        if not self._at_once:
            for child in self._children.values():
                child.tell(DRAIN)
        stop_at, kill_at = time.monotonic() + self._settings.drain_s, math.inf
        stopped: set[str] = set()
        while living := [child for child in self._children.values() if child.process.poll() is None]:
            now = time.monotonic()
            if now > kill_at:
                for child in living:
                    child.process.kill()
            elif kill_at == math.inf and (self._at_once or now > stop_at):
                kill_at = now + KILL_AFTER_S
                for child in living:
                    stopped.add(child.owner)
                    child.tell(STOP)
            time.sleep(TICK_S / 2)
        for child in self._children.values():
            if child.process.returncode != 0:  # it did not give its shards back
                self._maintenance.reap(child.owner, on_purpose=child.owner in stopped)
            self._close_pipes(child)
        self._children.clear()

    def _close_pipes(self, child: Child) -> None:
        child.process.wait()
        if child.reader is not None:
            child.reader.join(timeout=5)
        close_pipes(child.process)


SLACK = 30.0  # times the greatest cost of batches before, since outputs may be longer than any before
CUT_S_PER_CHAR = 5e-5  # five times the cost of the worst text and tokenizer that we found


@dataclass(frozen=True)
class Activity:
    """A batch or a cutting that a child has begun. `size` is in tokens for a batch, in characters for a cutting."""

    name: str
    kind: str
    size: int
    since: float


@dataclass
class Watchdog:
    """The open activities of one device process, and the cost of batches.

    Every activity may take `least_s`. No batch may take longer than `most_s`, which is also the limit of the first
    batch of its kind. Costs outlive the process. Call `forget_open` when another process takes its place.
    """

    least_s: float
    most_s: float
    _costs: dict[str, float] = field(default_factory=dict)
    _open: dict[str, Activity] = field(default_factory=dict)

    def begin(self, activity: Activity) -> None:
        self._open[activity.name] = activity

    def end(self, name: str, now: float) -> None:
        activity = self._open.pop(name, None)
        if activity is not None:
            cost = (now - activity.since) / max(activity.size, 1)
            self._costs[activity.kind] = max(cost, self._costs.get(activity.kind, 0.0))

    def limit_s(self, kind: str, size: int) -> float:
        """Return the seconds that an activity of this kind and size may take. Cutting has no fixed upper limit."""
        if kind == CUT:
            return max(self.least_s, CUT_S_PER_CHAR * size)
        cost = self._costs.get(kind)
        if cost is None:
            return self.most_s
        return min(self.most_s, max(self.least_s, SLACK * cost * size))

    def hung(self, now: float) -> Activity | None:
        """Return an activity that has taken longer than it may; None if there is none."""
        for activity in list(self._open.values()):
            if now - activity.since > self.limit_s(activity.kind, activity.size):
                return activity
        return None

    def forgive(self, lost_s: float) -> None:
        """Do not count a time in which the watching process was suspended."""
        for name, activity in list(self._open.items()):
            self._open[name] = replace(activity, since=activity.since + lost_s)

    def forget_open(self) -> None:
        self._open.clear()
