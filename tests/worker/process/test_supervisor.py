"""A signal ends a supervisor wherever it interrupts it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from docmill.storage.core.database import Database
from docmill.worker.process.supervisor import Child, Supervisor
from docmill.worker.process.watchdog import Watchdog
from docmill.worker.queue.broker import Broker
from docmill.worker.settings import load_settings

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


def test_a_signal_ends_a_worker_wherever_it_interrupts_it(tmp_path: Path, database: Database, redis_url: str) -> None:
    url = database.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", SIGNALS_AT_EACH_LINE, str(tmp_path), url, redis_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5


@pytest.mark.parametrize("event", [{"event": "ready"}, {"event": "refused", "server_away": False}, {"event": "idle"}])
def test_a_watcher_hears_of_what_may_have_ended_its_job(
    tmp_path: Path, database: Database, redis_url: str, event: dict[str, object]
) -> None:
    supervisor = Supervisor(load_settings(home=tmp_path), database, Broker(redis_url), devices=[])
    _hear(supervisor, event)
    supervisor.wait_for_news(3600)  # for ever, if it did not hear


def test_a_watcher_is_not_woken_while_a_process_computes(tmp_path: Path, database: Database, redis_url: str) -> None:
    supervisor = Supervisor(load_settings(home=tmp_path), database, Broker(redis_url), devices=[])
    _hear(supervisor, {"event": "beat", "finished": 1.0})
    _hear(supervisor, {"event": "begin", "name": "batch", "kind": "batch", "size": 1})
    assert not supervisor._news.is_set()


def _hear(supervisor: Supervisor, event: dict[str, object]) -> None:
    """Have a supervisor read what a device process says."""
    with subprocess.Popen(["echo", json.dumps(event)], stdout=subprocess.PIPE) as process:
        supervisor._listen(Child("cpu", "me", process, time.monotonic(), Watchdog(60, 60)))
