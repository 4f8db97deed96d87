"""A Ctrl-C that arrives where Python ignores exceptions stops the command all the same."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.worker.harness import ROOT

PROGRAM = """
import signal, sys, threading, weakref
from worker.cli.interrupts import repeat_dropped_interrupts

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


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_an_interrupt_that_python_drops_is_raised_again(number: str) -> None:
    called = [sys.executable, "-c", PROGRAM, number]
    done = subprocess.run(called, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "interrupted\n"
    assert done.stderr == ""


def test_other_exceptions_that_python_drops_are_printed() -> None:
    program = PROGRAM.replace("signal.raise_signal(number)", "raise ValueError('as ever')").replace(".wait(60)", "")
    called = [sys.executable, "-c", program, "SIGINT"]
    done = subprocess.run(called, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "ValueError: as ever" in done.stderr
