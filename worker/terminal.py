"""Progress on stderr, for commands and notebooks: bars, and above them the lines that other processes write."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import click

from docmill.worker import logs
from docmill.worker.formatting import printable
from docmill.worker.jobs import Bar, Listener

STDERR = 2
LAST_LINES_S = 1.0  # the longest wait for the last lines; a child that outlives this process keeps the pipe open
_has_pipe = threading.Lock()
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ([A-Z]+) \S+ (.*)")


def warn(message: str, *, nl: bool = True) -> None:
    """Print a warning or an error to stderr. A failure to print does not stop the work."""
    with suppress(OSError):
        click.echo(printable(message), nl=nl, err=True)


class Terminal(Listener):
    """A listener that shows sentences and bars on stderr, and with a log level docmill's own log.

    A quiet terminal shows only the log and the lines of other processes.
    """

    def __init__(self, log_level: str | None = None, log_format: str = logs.TEXT, *, quiet: bool = False) -> None:
        self._log = log_level, log_format
        self._quiet = quiet

    def say(self, message: str) -> None:
        if not self._quiet:
            warn(message)

    def bar(self, name: str, total: float | None = None) -> AbstractContextManager[Bar]:
        from docmill.worker.consoles import bar

        return bar(name, total, quiet=self._quiet)

    def computing(self) -> AbstractContextManager[None]:
        return show_lines_above_bar(*self._log)


@contextmanager
def show_lines_above_bar(log_level: str | None, log_format: str = logs.TEXT) -> Iterator[None]:
    """Show docmill's log and the stderr of child processes above a bar, in whole lines.

    Children write to a pipe in place of stderr, and a thread prints its lines. There is no pipe if stderr is not a
    terminal, where no bar moves, or if another thread has a pipe. Without a level, docmill's log is left to the
    program.
    """
    if not sys.stderr.isatty() or not _has_pipe.acquire(blocking=False):
        with _logging(log_level, log_format):
            yield
        return
    try:
        with _pipe_stderr(log_level, log_format):
            yield
    finally:
        _has_pipe.release()


@contextmanager
def _pipe_stderr(log_level: str | None, log_format: str) -> Iterator[None]:
    before, terminal = sys.stderr, os.dup(STDERR)
    reading, writing = os.pipe()
    printing = threading.Thread(target=_print_lines, args=(reading,), name="lines", daemon=True)
    screen = logs.ignore_write_errors(os.fdopen(terminal, "w", 1, before.encoding, before.errors))
    printing.start()
    try:
        os.dup2(writing, STDERR)
        os.close(writing)
        with _logging(log_level, log_format):
            sys.stderr = screen
            yield
    finally:
        os.dup2(terminal, STDERR)
        printing.join(LAST_LINES_S)
        sys.stderr = before
        screen.close()


@contextmanager
def _logging(level: str | None, form: str) -> Iterator[None]:
    if level is None:
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logs.formatter(form))
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(level.upper())
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


def _print_lines(reading: int) -> None:
    from rich.text import Text

    from docmill.worker.consoles import changing_bars, talk

    with open(reading, encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            with changing_bars:
                talk.print(Text(simplify_line(line)), soft_wrap=True)


def simplify_line(line: str) -> str:
    """Return a line for a terminal: the level and the message of a log line, or the last state of a moving bar."""
    line = line.rstrip("\r\n").rpartition("\r")[2]
    match = LOG_LINE.fullmatch(line)
    return printable(f"{match[1].lower()}: {match[2]}" if match else line)
