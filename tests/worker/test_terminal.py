"""A progress bar on a terminal to which other processes write."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

from tests.worker.harness import ROOT

RUN = """
import logging, subprocess, sys
from docmill.worker.consoles import bar
from docmill.worker.terminal import show_lines_above_bar
from docmill.worker import logs
CHILD = f'''
import logging, sys
logging.basicConfig(format={logs.LINE!r})
logging.getLogger("docmill.shard").warning("lease_lost shard=%d", 3)
print("Loading: 10%\\\\rLoading: 100%", file=sys.stderr)
'''
with show_lines_above_bar("warning"), bar("translate", total=10) as progress:
    progress.update(5, total=10)
    subprocess.run([sys.executable, "-c", CHILD], check=True)
    logging.getLogger("docmill.supervisor").error("device_died status=%d", -9)
    logging.getLogger("docmill.supervisor").info("of no interest")
    progress.update(10, total=10)
first, second = show_lines_above_bar(None), show_lines_above_bar(None)  # of two threads, in any order
first.__enter__()
second.__enter__()
first.__exit__(None, None, None)
second.__exit__(None, None, None)
print("after", file=sys.stderr)
"""


def _run_on_terminal(script: str) -> str:
    """Run a script with a terminal as its stderr. Return the terminal's output."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=theirs)
    os.close(theirs)
    output = b""
    try:
        while piece := os.read(ours, 65_536):
            output += piece
    except OSError:  # how Linux says that nobody has the other end any more
        pass
    os.close(ours)
    assert process.wait() == 0, output
    return output.decode()


def test_output_of_children_and_the_log_stands_in_its_own_lines_above_the_bar() -> None:
    output = _run_on_terminal(RUN)
    lines = [re.split(r"\r|\x1b\[2K|\x1b\[\?25h", line)[-1] for line in output.split("\r\n")]
    for line in ("warning: lease_lost shard=3", "Loading: 100%", "error: device_died status=-9"):
        assert line in lines, output
    assert any("10/10" in line for line in lines)
    assert lines[-2:] == ["after", ""]
    assert "of no interest" not in output


INTERRUPTED = """
import os, threading
from docmill.worker.terminal import show_lines_above_bar

start = threading.Thread.start

def start_and_interrupt(thread):
    start(thread)
    raise KeyboardInterrupt

threading.Thread.start = start_and_interrupt
try:
    show_lines_above_bar(None).__enter__()
except KeyboardInterrupt:
    os.write(2, b"after")
"""


def test_an_interrupt_as_the_bar_begins_restores_the_terminal() -> None:
    assert _run_on_terminal(INTERRUPTED) == "after"
