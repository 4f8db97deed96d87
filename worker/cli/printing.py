"""Printing: data to stdout, messages to stderr, neither with characters that a terminal would obey."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import NoReturn

import click

from docmill.worker.cli.formatting import aligned, printable

STDOUT, STDERR = 1, 2
QUIET = "docmill.quiet"
_hushed = ContextVar("hushed", default=False)


def say(message: str, *, nl: bool = True) -> None:
    """Print talk to stderr, so that stdout stays data; nothing with --quiet."""
    context = click.get_current_context(silent=True)
    if not is_hushed() and (context is None or not context.find_root().meta.get(QUIET)):
        warn(message, nl=nl)


@contextmanager
def hushed(hush: bool = True) -> Iterator[None]:
    """If `hush` is True, let this thread print only warnings and errors on stderr, and no bar."""
    before = _hushed.set(hush)
    try:
        yield
    finally:
        _hushed.reset(before)


def is_hushed() -> bool:
    return _hushed.get()


class _Aside:
    """A block in which stdout is stderr. Threads may leave it in another order than they entered it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._stdout = sys.stdout

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._stdout, sys.stdout = sys.stdout, sys.stderr
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                sys.stdout = self._stdout


stdout_aside = _Aside()  # for whatever a library prints


def warn(message: str, *, nl: bool = True) -> None:
    """Print a warning or an error to stderr. If that fails, the work goes on."""
    with suppress(OSError):
        click.echo(printable(message), nl=nl, err=True)


def answer(message: object, *, nl: bool = True) -> None:
    """Print an answer to stdout, without characters that a terminal would obey."""
    click.echo(printable(str(message)), nl=nl)


def answer_values(values: Mapping[str, str]) -> None:
    """Print names in bold, and their values beside them without characters that a terminal would obey."""
    click.echo(aligned({name: printable(value) for name, value in values.items()}))


def nobody_reads() -> None:
    """Let what goes to stdout from now on go nowhere, after its reader went away."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDOUT)
    os.close(nowhere)


def open_closed_streams() -> None:
    """Give a process that was started with a closed stdin, stdout or stderr an empty one.

    Otherwise the next file that it opens, the database say, would have that number, and get what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - for the whole life


def leave(code: int) -> NoReturn:
    """End the process. While a thread waits for a pipe that says nothing, the interpreter cannot end by itself: it
    wants the lock that the thread holds."""
    from docmill.worker.concurrency.prefetch import still_waits

    if still_waits():
        with suppress(OSError):  # nobody reads any more
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def print_json(value: object) -> None:
    """Print one JSON document to stdout."""
    import orjson

    from docmill.worker.cli.stdout import escaped

    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode()
    sys.stdout.write(escaped(text) + "\n")


def confirmed(question: str, verb: str = "Remove", undone: str = "Nothing was removed") -> bool:
    """Ask whether to remove what the question names, or to do another thing; without a terminal to ask in, do not."""
    say(question)
    if not sys.stdin.isatty():
        say(f"{undone}: --yes says that it is meant.")
        return False
    return click.confirm(f"{verb}?", err=True)
