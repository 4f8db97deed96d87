"""The terminal of a command: data on stdout, messages on stderr, exit codes, and Ctrl-C.

Nothing is printed with characters that a terminal would obey.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, cast

import click
import orjson

from docmill.worker.concurrency import is_prefetch_blocked
from docmill.worker.formatting import printable
from docmill.worker.logs import UNSEEN
from docmill.worker.terminal import Terminal, warn

if TYPE_CHECKING:
    from rich.console import RenderableType

    from docmill.storage.outputs.columns import Column
    from docmill.storage.results.status import JobStatus
    from docmill.storage.writers import Target
    from docmill.worker.jobs import Listener
    from docmill.worker.settings import Settings


OK, SOME_FAILED, SOME_REJECTED = 0, 1, 4
STDOUT_FD = 1  # the number of its file
QUIET = "docmill.quiet"


def with_quiet(command: click.Command) -> click.Command:
    """Give a command, or each of a group's commands, the option --quiet."""
    if isinstance(command, click.Group):
        for member in command.commands.values():
            with_quiet(member)
    elif all(param.name != "quiet" for param in command.params):
        about = "Print only warnings and errors on stderr, for cron."
        command.params.append(
            click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=_be_quiet, help=about)
        )
    return command


def _be_quiet(context: click.Context, _: click.Parameter, quiet: bool) -> None:
    """Let a command print nothing on stderr but warnings and errors."""
    if quiet and not context.resilient_parsing:
        context.find_root().meta[QUIET] = True


def is_quiet() -> bool:
    """Return True if the command was called with --quiet."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.find_root().meta.get(QUIET))


def say(message: str, *, nl: bool = True) -> None:
    """Print talk to stderr, so that stdout stays data; nothing with --quiet."""
    if not is_quiet():
        warn(message, nl=nl)


def say_rich(renderable: RenderableType) -> None:
    """Print a table or a styled text to stderr; nothing with --quiet."""
    from docmill.worker.consoles import talk

    if not is_quiet():
        talk.print(renderable)


def print_rich(renderable: RenderableType) -> None:
    """Print a table or a styled text to stdout; into a file or a pipe without blanks at the ends of lines."""
    from docmill.worker.consoles import paper

    if paper.is_terminal:
        paper.print(renderable)
        return
    with paper.capture() as printed:
        paper.print(renderable)
    answer("\n".join(line.rstrip(" ") for line in printed.get().split("\n")), nl=False)


def listen(settings: Settings | None = None) -> Listener:
    """Return the listener that shows bars and sentences on stderr; with settings, docmill's own log as well."""
    if settings is None:
        return Terminal(quiet=is_quiet())
    return Terminal(settings.log_level, settings.log_format, quiet=is_quiet())


def answer(message: object, *, nl: bool = True) -> None:
    """Print an answer to stdout, without characters that a terminal would obey."""
    click.echo(printable(str(message)), nl=nl)


def discard_stdout() -> None:
    """Discard all further output to stdout, since its reader went away."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDOUT_FD)
    os.close(nowhere)


def open_closed_streams() -> None:
    """Give a process that was started with a closed stdin, stdout or stderr an empty one.

    Otherwise the next file that it opens, the database say, would have that number, and get what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - for the whole life


def leave(code: int) -> NoReturn:
    """End the process.

    The interpreter cannot end while a thread waits for a silent pipe, since the thread holds a lock that it wants.
    """
    let_signals_kill()
    try:
        sys.stdout.flush()
    except OSError:  # the interpreter would try again, and end with a code of its own
        discard_stdout()
    if is_prefetch_blocked():
        with suppress(OSError):  # nobody reads any more
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def print_json(value: object) -> None:
    """Print one JSON document to stdout, in UTF-8."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode()
    click.echo(escaped(text).encode())


def confirm(question: str, verb: str = "Remove", undone: str = "Nothing was removed") -> bool:
    """Ask a question, and return True if the answer is yes. Without a terminal, return False and name --yes."""
    warn(question)
    if not sys.stdin.isatty():
        warn(f"{undone}. Give --yes to confirm.")
        return False
    return click.confirm(f"{verb}?", err=True)


def escaped(text: str) -> str:
    """Return the same value in JSON with the characters that a terminal would obey, or not show, as escapes.

    JSON has none below U+0020 but its own line ends and tabs.
    """
    return UNSEEN.sub(lambda match: match[0] if match[0] in "\r\n\t" else json.dumps(match[0])[1:-1], text)


class Harmless(io.RawIOBase):
    """A stream for whole lines of JSON or CSV.

    JSON is escaped wherever it goes, since its value stays. CSV has no escapes, so it is changed only for a terminal.
    """

    def __init__(self, stream: BinaryIO, form: str, is_terminal: bool) -> None:
        self._stream = stream
        self._form = form
        self._is_terminal = is_terminal

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if not self._form.startswith("csv"):
            return self._stream.write(escaped(data.decode()).encode())
        if self._is_terminal:
            return self._stream.write(printable(data.decode(), keep="\r\n\t").encode())
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()


def write_out(
    rows: Iterable[dict[str, Any]],
    target: Target | None = None,
    columns: Sequence[Column] = (),
    documents: int = 0,
    noun: str = "result",
) -> int:
    """Write rows to stdout, by default as JSON lines, or to a file, and say how many. Return their number.

    ``documents`` is the greatest possible number of rows, for the progress bar of a file. ``noun`` names a row.
    """
    from docmill.worker.jobs.outputs import STDOUT, require_target

    target = target or require_target(None)
    if target.path == STDOUT:
        harmless = Harmless(sys.stdout.buffer, target.writer.name, sys.stdout.isatty())
        n = target.writer.write(rows, columns, cast(BinaryIO, harmless))
        sys.stdout.buffer.flush()
        return n
    from docmill.worker.jobs.results import write_file

    return write_file(target, rows, columns, documents, noun, listen())


def exit_code_of(status: JobStatus, max_failures: float | None = None) -> int:
    """Return the exit code of a job, and say what to do if documents have no result.

    0: every document has its result; 1: documents failed, or the job was stopped; 4: only records were rejected.
    """
    if status.failed or status.rejected:
        listed = f"docmill failures {status.id}"
        retried = f"; to try the failed again: docmill retry {status.id}" if status.failed else ""
        warn(f"What failed, and why: {listed}{retried}")
    bearable = max_failures is not None and status.texts and 100 * status.failed / status.texts <= max_failures
    if status.state != "done" or (status.failed and not bearable):
        return SOME_FAILED
    return SOME_REJECTED if status.rejected else OK


AGAIN_S = 0.05  # by then the callback is over
_heard: list[int] = []  # numbers of signals
_POOLS = ("sqlalchemy.pool.impl.QueuePool", "sqlalchemy.pool.impl.NullPool")  # the loggers of SQLAlchemy's pools


def repeat_dropped_interrupts() -> None:
    """Let each KeyboardInterrupt that Python drops from now on be raised again in the main thread."""
    sys.unraisablehook = _repeat


def leave_interrupts_unlogged() -> None:
    """Let SQLAlchemy's pools log no KeyboardInterrupt from now on; they raise it all the same."""
    for name in _POOLS:
        logging.getLogger(name).addFilter(_is_no_interrupt)


def hear_signals() -> None:
    """Raise KeyboardInterrupt at a Ctrl-C and at a service manager's stop (SIGTERM) from now on."""
    _heard.clear()
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as a shell's background commands have it
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, _frame: object) -> None:
    _heard.append(number)
    raise KeyboardInterrupt


def was_interrupted() -> bool:
    """Return True if the command heard a signal.

    Another error than KeyboardInterrupt may end it then: NumPy, for example, raises an ImportError during its import.
    """
    return bool(_heard)


def let_signals_kill() -> None:
    """Let a Ctrl-C or a stop end the process at once from now on, and print nothing: the work is over."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _repeat(dropped: sys.UnraisableHookArgs) -> None:
    if not issubclass(dropped.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)
        return
    # A shell starts background commands with SIGINT ignored; then a SIGTERM was dropped.
    number = signal.SIGINT if callable(signal.getsignal(signal.SIGINT)) else signal.SIGTERM
    # Sent to the main thread itself, which may wait for a lock by then.
    again = threading.Timer(AGAIN_S, signal.pthread_kill, [threading.main_thread().ident, number])
    again.daemon = True
    again.start()


def _is_no_interrupt(record: logging.LogRecord) -> bool:
    raised = record.exc_info[0] if record.exc_info else None
    return raised is None or not issubclass(raised, KeyboardInterrupt)
