"""Supervisors end at any signal, replace children that die, and kill children that hang."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import pytest

from docmill.storage.core.database import Database
from docmill.storage.leases.diagnosis import UNBLOCKING
from docmill.tasks.errors import ServerUnreachable
from docmill.worker.errors import JobBlocked, WorkerError
from docmill.worker.jobs.local_run import TOO_MANY_DEATHS, Watch
from docmill.worker.process.supervisor import SLACK, Activity, Child, Supervisor, Watchdog, restart_delay
from docmill.worker.queue.broker import Broker
from docmill.worker.settings import load_settings
from tests.worker.harness import run_python

LINES = 40  # more than a turn of its loop has, those of the standard library included
SIGNALS_AT_EACH_LINE = f"""
import faulthandler, signal, sys
from pathlib import Path
from docmill.storage.core.database import Database
from tests.kinds import KINDS
from docmill.worker.queue.broker import Broker
from docmill.worker.settings import load_settings
from docmill.worker.process import supervisor as module
from docmill.worker.process.supervisor import Supervisor

module.TICK_S = 0.01
faulthandler.dump_traceback_later(100, exit=True)
home, database_url, redis_url = sys.argv[1:]
database, broker = Database(database_url, kinds=KINDS), Broker(redis_url)
settings = load_settings(home=Path(home))
interrupted = set()
for wanted in range({LINES}):
    left = None

    def trace(frame, event, _):
        global left
        if event == "call" and frame.f_code.co_name == "_tend_children" and left is None:
            left = wanted
        if event == "line" and left is not None:
            if left == 0:
                interrupted.add((frame.f_code.co_filename, frame.f_lineno))
                signal.raise_signal(signal.SIGTERM)
            left -= 1
        return trace

    supervisor = Supervisor(settings, database, broker, devices=[])
    sys.settrace(trace)
    supervisor.run_with_signals()
    sys.settrace(None)
print(len(interrupted))
"""


def test_a_signal_ends_a_worker_wherever_it_interrupts_it(tmp_path: Path, database_url: str, redis_url: str) -> None:
    completed = run_python(SIGNALS_AT_EACH_LINE, str(tmp_path), database_url, redis_url, timeout=120)
    assert completed.returncode == 0, completed.stderr
    assert int(completed.stdout) > 5


@pytest.fixture
def supervisor(tmp_path: Path, database: Database) -> Supervisor:
    return Supervisor(load_settings(home=tmp_path), database, Broker("redis://127.0.0.1:1"), devices=["cpu"])


# In a process of its own: that of other tests may not survive a signal (see `interrupt`).
WAITING = """
import signal, sys, threading
from docmill.worker.process.supervisor import Supervisor

supervisor, may_end = object.__new__(Supervisor), threading.Event()
here = threading.get_ident()

def run():
    while sys._current_frames()[here].f_code.co_name not in {"join", "_wait_for_tstate_lock"}:
        pass
    signal.pthread_kill(here, signal.SIGINT)
    may_end.wait()

supervisor._thread = threading.Thread(target=run)
supervisor._thread.start()
try:
    supervisor.join()
except KeyboardInterrupt:
    print(supervisor.is_running)
may_end.set()
supervisor.join()
print(supervisor.is_running)
"""


@pytest.mark.usefixtures("interrupt")
def test_an_interrupted_wait_for_a_supervisor_can_be_taken_up_again() -> None:
    assert run_python(WAITING, check=True).stdout.split() == ["True", "False"]


@pytest.mark.parametrize("event", [{"event": "ready"}, {"event": "refused", "server_away": False}, {"event": "idle"}])
def test_events_that_may_end_a_job_wake_its_watcher(supervisor: Supervisor, event: dict[str, object]) -> None:
    _hear(supervisor, "a library's words", event)
    assert supervisor._news.is_set()
    supervisor.wait_for_news(3600)


def test_a_watcher_is_not_woken_while_a_process_computes(supervisor: Supervisor) -> None:
    _hear(supervisor, {"event": "beat", "finished": 1.0, "counts": {}, "gauges": {}})
    _hear(supervisor, {"event": "begin", "name": "batch", "kind": "batch", "size": 1})
    assert not supervisor._news.is_set()


def _hear(supervisor: Supervisor, *messages: object) -> None:
    """Make a supervisor read messages of a device process."""
    lines = [value if isinstance(value, str) else json.dumps(value) for value in messages]
    with subprocess.Popen(["printf", "%s\\n", *lines], stdout=subprocess.PIPE) as process:
        supervisor._listen(Child("cpu", "me", process, time.monotonic(), Watchdog(60, 60)))


def test_children_that_die_as_they_start_are_replaced_ever_later_and_a_run_gives_up(supervisor: Supervisor) -> None:
    watch, status = Watch(supervisor), cast(Any, SimpleNamespace(blocked=False, waiting_cause=None))

    def die(*, worked: bool = False) -> None:
        with subprocess.Popen(["true"]) as process:
            supervisor._children["cpu"] = Child("cpu", "me", process, 0.0, watchdog(), worked=worked)
            supervisor._bury(supervisor._children["cpu"])

    for _ in range(TOO_MANY_DEATHS):
        watch(status)
        died_at = time.monotonic()
        die()
    assert supervisor._restart_at["cpu"] >= died_at + restart_delay(TOO_MANY_DEATHS)
    with pytest.raises(WorkerError, match="dies as it starts"):
        watch(status)
    die(worked=True)
    assert supervisor.deaths == 0
    assert [restart_delay(deaths) for deaths in range(9)] == [0, 0, 1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize(("away", "error"), [(False, JobBlocked), (True, ServerUnreachable)])
def test_a_run_ends_once_its_worker_was_ready_and_refuses_the_job_too(away: bool, error: type[Exception]) -> None:
    supervisor = cast(Any, SimpleNamespace(ready=True, deaths=0, server_away=away))
    watch, status = Watch(supervisor), cast(Any, SimpleNamespace(id=7, blocked=True, waiting_cause=None))
    status.waiting_for = f"blocked: no memory. {UNBLOCKING}"
    watch(status)
    with pytest.raises(error, match=r"job 7 is blocked: no memory\. The same command continues it"):
        watch(status)


def test_a_supervisor_that_was_suspended_kills_no_child_for_that_time(supervisor: Supervisor) -> None:
    child = Child("cpu", "me", mock.Mock(), 0.0, watchdog())
    supervisor._children["cpu"] = child
    for frozen_s, kills in ((5_000.0, 0), (0.0, 1)):
        child.watchdog.begin(Activity("batch", "batch a", 10, time.monotonic() - 5_000.0))
        supervisor._watch(frozen_s)
        assert child.process.kill.call_count == kills  # type: ignore[attr-defined]


def test_a_process_that_cannot_be_started_counts_as_one_that_died_and_is_tried_again(
    tmp_path: Path, database: Database
) -> None:
    settings, threads = load_settings(home=tmp_path), mock.Mock(side_effect=RuntimeError("can't start new thread"))
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        take = mock.Mock(side_effect=[BlockingIOError("no more processes"), process])
        started: Any = SimpleNamespace(take=take)
        supervisor = Supervisor(settings, database, Broker("redis://127.0.0.1:1"), devices=["cpu"], started=started)
        with mock.patch("threading.Thread.start", threads):
            for deaths in (1, 2):
                supervisor._tend_children()
                assert supervisor.deaths == deaths
        assert process.returncode == -signal.SIGKILL, "it has no thread that reads it"


def watchdog() -> Watchdog:
    return Watchdog(least_s=60.0, most_s=900.0)


def watchdog_after(cost_s: float, size: int = 1_000) -> Watchdog:
    """Return a watchdog that saw a batch of `size` tokens take `cost_s`."""
    dog = watchdog()
    dog.begin(Activity("batch", "batch a", size, 100.0))
    dog.end("batch", 100.0 + cost_s)
    return dog


def test_the_limit_follows_from_the_cost_of_a_kind_and_the_size() -> None:
    dog = watchdog_after(cost_s=4.0)
    assert dog.limit_s("batch a", 1_000) == SLACK * 4.0
    assert dog.limit_s("batch a", 4_000) == SLACK * 16.0
    assert dog.limit_s("batch a", 10) == 60.0, "never less than the least"
    assert dog.limit_s("batch a", 1_000_000) == 900.0, "never more than the most"
    assert dog.limit_s("batch of another model", 10) == 900.0


def test_the_slowest_batch_of_a_kind_counts() -> None:
    dog = watchdog_after(cost_s=4.0)
    dog.begin(Activity("batch", "batch a", 1_000, 0.0))
    dog.end("batch", 1.0)
    assert dog.limit_s("batch a", 1_000) == SLACK * 4.0


def test_cutting_has_time_for_the_length_of_a_text() -> None:
    dog = watchdog()
    assert dog.limit_s("cut", 60_000) == 60.0
    assert dog.limit_s("cut", 256_000_000) > 3 * 3600


def test_an_activity_that_ended_does_not_hang_and_those_beside_it_are_watched_on() -> None:
    dog = watchdog_after(cost_s=0.1)
    dog.begin(Activity("cut 1", "cut", 10, 0.0))
    dog.begin(Activity("batch", "batch a", 10, 0.0))
    dog.end("cut 1", 1.0)
    hung = dog.hung(61.0)
    assert hung is not None
    assert hung.name == "batch"
    dog.end("batch", 61.0)
    assert dog.hung(10_000.0) is None


def test_open_activities_of_a_dead_process_are_forgotten_and_costs_are_not() -> None:
    dog = watchdog_after(cost_s=4.0)
    dog.begin(Activity("batch", "batch a", 10, 0.0))
    dog.forget_open()
    assert dog.hung(10_000.0) is None
    assert dog.limit_s("batch a", 1_000) == SLACK * 4.0


def test_a_time_in_which_the_watcher_was_frozen_is_not_counted() -> None:
    dog = watchdog_after(cost_s=0.1)
    dog.begin(Activity("batch", "batch a", 10, 0.0))
    dog.forgive(500.0)
    assert dog.hung(559.0) is None
    assert dog.hung(561.0) is not None
