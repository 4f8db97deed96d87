"""A seeded scheduler that owns time and the order of events, and doubles of `threading` and `time` above it.

A task is a thread that runs only while it has the turn, so that one task runs at a time. It gives the turn back at
each wait, and at each pause of the doubles of store and queue. Virtual time decides which task is next, and the seed
decides among tasks of the same time. A process is a group of tasks that die, or are suspended, together.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import threading
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

START = 1_767_222_000.0  # 31 December 2025, 23:00 UTC
TRACED = 60  # the number of events that a failing night shows


class Killed(BaseException):
    """The process of this task is dead: the task ends at once."""


class SimProcess:
    """A process: it can be killed and suspended between any two events of its tasks."""

    def __init__(self, scheduler: Scheduler, name: str, host: str) -> None:
        self.scheduler = scheduler
        self.name = name
        self.host = host
        self.pid = scheduler.next_number()
        scheduler.processes.append(self)
        self.returncode: int | None = None
        self.is_frozen = False
        self.tasks: set[Task] = set()
        self.at_exit: list[Callable[[], None]] = []
        self._held: list[tuple[Task, int]] = []

    def start(self, target: Callable[..., object], *args: Any, name: str = "main") -> Task:
        return Task(self, name, target, args)

    def poll(self) -> int | None:
        return self.returncode

    def wait(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        """kill -9."""
        self.exit(-9)

    def exit(self, code: int) -> None:
        """End all tasks, including the caller."""
        if self.returncode is None:
            self.returncode = code
            self.scheduler.note(f"{self.name} ends with {code}")
            for task in sorted(self.tasks, key=lambda task: task.number):
                task.is_killed = True
                self.scheduler.push(self.scheduler.now, task, task.token)
            for act in self.at_exit:
                act()
        if self.scheduler.current.process is self:
            raise Killed

    def freeze(self) -> None:
        """Suspend the process (SIGSTOP)."""
        self.is_frozen = True

    def thaw(self) -> None:
        self.is_frozen = False
        for task, token in self._held:
            self.scheduler.push(self.scheduler.now, task, token)
        self._held.clear()

    def hold(self, task: Task, token: int) -> None:
        self._held.append((task, token))


class Task:
    """A thread of a process."""

    def __init__(self, process: SimProcess, name: str, target: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.process = process
        self.scheduler = process.scheduler
        self.name = f"{process.name}/{name}"
        self.number = self.scheduler.next_number()
        self.token = 0
        self.is_woken = False
        self.is_killed = process.returncode is not None
        self.is_over = False
        self.writes = False  # a write transaction is open: no other task may use the store
        self.memory: dict[str, Any] = {}
        self.turn = threading.Lock()
        self.turn.acquire()
        self._joined: list[tuple[Task, int]] = []
        self._target, self._args = target, args
        process.tasks.add(self)
        threading.Thread(target=self._run, name=self.name, daemon=True).start()
        self.scheduler.push(self.scheduler.now, self, self.token)

    def _run(self) -> None:
        self.turn.acquire()
        try:
            if not self.is_killed:
                self._target(*self._args)
        except Killed:
            pass
        except BaseException:
            self.scheduler.fail(f"{self.name} fails:\n{traceback.format_exc()}")
        self.is_over = True
        self.process.tasks.discard(self)
        for task, token in self._joined:
            self.scheduler.wake(task, token)
        self.scheduler.pass_on(self)

    def join(self, timeout: float | None = None) -> None:
        if not self.is_over:
            self.scheduler.wait(self._joined, timeout)


class NightFailed(AssertionError):
    """A night broke a law."""


class Scheduler:
    """The time, the tasks and the order of events of a night."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = START
        self.events = 0
        self.trace: deque[str] = deque(maxlen=TRACED)
        self.problem: str | None = None
        self._hash = hashlib.sha256()
        self.processes: list[SimProcess] = []
        self._numbers = 0
        self._heap: list[tuple[float, float, int, Task, int]] = []
        # The caller's own thread is a task, too: the director of the night.
        director = SimProcess(self, "night", "outside")
        self.current = self.director = Task.__new__(Task)
        self.director.__dict__.update(
            process=director,
            scheduler=self,
            name="night",
            number=0,
            token=0,
            is_woken=False,
            is_killed=False,
            is_over=False,
            writes=False,
            memory={},
            turn=threading.Lock(),
            _joined=[],
        )
        self.director.turn.acquire()

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    @property
    def fingerprint(self) -> str:
        """The hash of all events so far."""
        return self._hash.hexdigest()

    def note(self, event: str, *, in_trace: bool = True) -> None:
        """Add an event to the fingerprint and to the trace, which a failing night shows."""
        self.events += 1
        line = f"{self.now - START:10.3f} {self.current.name}: {event}"
        self._hash.update(line.encode())
        if in_trace:
            self.trace.append(line)

    def fail(self, problem: str) -> None:
        """End the night: the director's next step raises the first problem."""
        if self.problem is None:
            self.problem = problem
            self.note(problem)
            self.push(self.now, self.director, self.director.token)

    def push(self, at: float, task: Task, token: int) -> None:
        heapq.heappush(self._heap, (at, self.rng.random(), self.next_number(), task, token))

    def wake(self, task: Task, token: int) -> None:
        """Let a task that waits go on."""
        if task.token == token and not task.is_woken:
            task.is_woken = True
            self.push(self.now, task, token)

    def wait(self, waiters: list[tuple[Task, int]] | None, timeout: float | None) -> bool:
        """Give up the turn until another task wakes this one, or until `timeout`. Return True if woken."""
        task = self.current
        assert not task.writes, "nobody waits in a write transaction"
        if task.is_killed:
            raise Killed
        task.token += 1
        task.is_woken = False
        if waiters is not None:
            waiters.append((task, task.token))
        if timeout is not None:
            self.push(self.now + max(0.0, timeout), task, task.token)
        self.pass_on(task)
        if task.is_killed:
            raise Killed
        if task is self.director and self.problem is not None:
            raise NightFailed(self.problem)
        return task.is_woken

    def pass_on(self, task: Task) -> None:
        """Give the turn to the next task, and wait for the turn if this task is not over."""
        following = self._next()
        self.current = following
        if following is task:
            return
        following.turn.release()
        if not task.is_over:
            task.turn.acquire()

    def _next(self) -> Task:
        while True:
            at, _, _, task, token = heapq.heappop(self._heap)
            if task.is_over or task.token != token:
                continue
            if task.process.is_frozen and not task.is_killed:
                task.process.hold(task, token)
                continue
            task.token += 1
            self.now = max(self.now, at)
            return task

    def end(self) -> None:
        """Kill all processes, and let each of their tasks come to its end."""
        self.problem = None
        self.processes.remove(self.director.process)
        for process in self.processes:
            process.kill()
        while any(process.tasks for process in self.processes):
            self.sleep(0.0)

    def sleep(self, seconds: float) -> None:
        self.wait(None, seconds)

    def pause(self, typical_s: float) -> None:
        """Let about this time pass, sometimes a hundred times as much, unless a write transaction is open."""
        if not self.current.writes:
            factor = 100.0 if self.rng.random() < 0.01 else 1.0
            self.sleep(self.rng.expovariate(1.0 / typical_s) * factor)

    def spawn(self, name: str, host: str, target: Callable[..., object], *args: Any) -> SimProcess:
        """Start a process with one task."""
        process = SimProcess(self, name, host)
        process.start(target, *args)
        return process

    def _exit(self, code: int) -> None:
        self.current.process.exit(code)

    def doubles(self) -> dict[str, Any]:
        """Return the doubles of modules, by their names."""
        return {
            "time": Namespace(monotonic=lambda: self.now, time=lambda: self.now, sleep=self.sleep),
            "threading": Namespace(
                Thread=lambda **named: SimThread(self, **named),
                Event=lambda: SimEvent(self),
                Lock=lambda: SimLock(self),
                Condition=lambda: SimCondition(self),
            ),
            "platform": Namespace(node=lambda: self.current.process.host),
            "uuid": Namespace(uuid4=lambda: uuid.UUID(int=self.rng.getrandbits(128), version=4)),
            "os": Namespace(getpid=lambda: self.current.process.pid, _exit=self._exit),
        }


class Namespace:
    """Attributes by name."""

    def __init__(self, **named: Any) -> None:
        self.__dict__.update(named)


class SimThread:
    """A `threading.Thread`."""

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        target: Callable[..., object],
        args: tuple[Any, ...] = (),
        name: str,
        daemon: bool,
    ) -> None:
        self._make: Callable[[], Task] = lambda: Task(scheduler.current.process, name, target, args)
        self._task: Task | None = None

    def start(self) -> None:
        self._task = self._make()

    @property
    def ident(self) -> int | None:
        return None if self._task is None else self._task.number

    def is_alive(self) -> bool:
        return self._task is not None and not self._task.is_over

    def join(self, timeout: float | None = None) -> None:
        assert self._task is not None
        self._task.join(timeout)


class SimEvent:
    """A `threading.Event`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._is_set = False
        self._waiters: list[tuple[Task, int]] = []

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        waiters, self._waiters = self._waiters, []
        for task, token in waiters:
            self._scheduler.wake(task, token)

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._is_set:
            self._scheduler.wait(self._waiters, timeout)
        return self._is_set


class SimLock:
    """A `threading.Lock`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._is_held = False
        self._waiters: list[tuple[Task, int]] = []

    def __enter__(self) -> bool:
        while self._is_held:
            self._scheduler.wait(self._waiters, None)
        self._is_held = True
        return True

    def __exit__(self, *_: object) -> None:
        self._is_held = False
        waiters, self._waiters = self._waiters, []
        for task, token in waiters:
            self._scheduler.wake(task, token)


class SimCondition(SimLock):
    """A `threading.Condition`."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(scheduler)
        self._changed: list[tuple[Task, int]] = []

    def wait_for(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self.__exit__()
            self._scheduler.wait(self._changed, None)
            self.__enter__()

    def notify_all(self) -> None:
        waiters, self._changed = self._changed, []
        for task, token in waiters:
            self._scheduler.wake(task, token)


class SimQueue:
    """A `queue.SimpleQueue`."""

    def __init__(self, scheduler: Scheduler, empty: type[Exception]) -> None:
        self._items: deque[Any] = deque()
        self._changed = SimEvent(scheduler)
        self._empty = empty

    def put(self, item: Any) -> None:
        self._items.append(item)
        self._changed.set()

    def get(self, timeout: float | None = None) -> Any:
        if not self._items:
            self._changed.clear()
            self._changed.wait(timeout)
        if not self._items:
            raise self._empty
        return self._items.popleft()


class SimPipe:
    """A pipe of lines between two processes."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._lines = SimQueue(scheduler, EOFError)
        self.is_closed = False

    def write(self, line: bytes) -> None:
        if self.is_closed:
            raise BrokenPipeError
        self._lines.put(line)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._lines.put(b"")

    def readline(self) -> bytes:
        line: bytes = self._lines.get()
        return line

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")
