"""A Ctrl-C that arrives where Python ignores exceptions stops the command all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worker.harness import run_python

PROGRAM = """
import signal, sys, threading, weakref
from docmill.worker.cli.printing import repeat_dropped_interrupts

class Target:
    pass

def callback(_):
    signal.raise_signal(number)

number = signal.Signals[sys.argv[1]]
if number == signal.SIGTERM:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(number, signal.default_int_handler)
repeat_dropped_interrupts()
target = Target()
watched = weakref.ref(target, callback)
try:
    del target
    threading.Event().wait(60)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("number", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.long)])
def test_an_interrupt_that_python_drops_is_raised_again(number: str) -> None:
    completed = run_python(PROGRAM, number, check=True)
    assert (completed.stdout, completed.stderr) == ("interrupted\n", "")


def test_other_exceptions_that_python_drops_are_printed() -> None:
    program = PROGRAM.replace("signal.raise_signal(number)", "raise ValueError('as ever')").replace(".wait(60)", "")
    assert "ValueError: as ever" in run_python(program, "SIGINT", check=True).stderr


POOL = """
import sys
from sqlalchemy import NullPool, QueuePool, create_engine, event, text
from docmill.worker.cli.printing import leave_interrupts_unlogged

kind = {"NullPool": NullPool, "QueuePool": QueuePool}[sys.argv[1]]
engine = create_engine("sqlite:///" + sys.argv[2], poolclass=kind)

@event.listens_for(engine, "reset")
def reset(*_):
    raise KeyboardInterrupt

leave_interrupts_unlogged()
try:
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("pool", ["QueuePool", pytest.param("NullPool", marks=pytest.mark.long)])
def test_an_interrupt_as_a_connection_goes_back_is_raised_and_not_logged(pool: str, tmp_path: Path) -> None:
    completed = run_python(POOL, pool, str(tmp_path / "a.db"), check=True)
    assert (completed.stdout, completed.stderr) == ("interrupted\n", "")


COMMAND = """
import signal, sys
from docmill.worker import cli
from docmill.worker.cli import printing

first, *again = [signal.Signals[name] for name in sys.argv[2:]]

def work(**_):
    try:
        signal.raise_signal(first)
    except KeyboardInterrupt:
        if sys.argv[1] == "lost":
            raise ImportError("a module in C, whose import ended")
        raise

cli.docmill = work
printing.is_prefetch_blocked = lambda: any(map(signal.raise_signal, again))
cli.main()
"""


@pytest.mark.usefixtures("interrupt")
@pytest.mark.parametrize(
    ("how", "signals", "code"),
    [
        ("raised", ["SIGTERM"], 130),
        ("raised", ["SIGINT", "SIGINT"], -2),
        ("raised", ["SIGINT", "SIGTERM"], -15),
        ("lost", ["SIGINT"], 130),
    ],
)
def test_a_signal_interrupts_any_command_and_a_second_kills_it_both_without_a_traceback(
    how: str, signals: list[str], code: int
) -> None:
    completed = run_python(COMMAND, how, *signals)
    assert (completed.returncode, completed.stdout, completed.stderr) == (code, "", "Interrupted.\n")


LOADING = """
import runpy, signal, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == "docmill.worker.cli":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
runpy.run_module("docmill", run_name="__main__")
"""


@pytest.mark.usefixtures("interrupt")
def test_an_interrupt_while_a_command_loads_ends_it_without_a_traceback() -> None:
    completed = run_python(LOADING)
    assert (completed.returncode, completed.stdout, completed.stderr) == (-2, "", "")
