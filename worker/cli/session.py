"""What a command works with: settings, the store, the queue; opened for its length and closed after it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from storage.database import Database
    from worker.broker import Broker
    from worker.settings import Settings


STDERR = 2
STDOUT = Path("-")
OUT = click.Path(dir_okay=False, allow_dash=True, path_type=Path)


def say(message: str) -> None:
    """Talk: goes to stderr, so that stdout stays data. Where nobody listens any more, the work goes on."""
    try:
        click.echo(message, err=True)
    except BrokenPipeError:
        nobody_reads(STDERR)


def nobody_reads(number: int) -> None:
    """Let what goes to stdout (1) or stderr (2) from now on go nowhere, after its reader went away."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def open_closed_streams() -> None:
    """Give a process that was started with a closed stdin, stdout or stderr an empty one.

    Otherwise the next file that it opens, the database say, would have that number, and get what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - for the whole life


def settings_from(**options: Any) -> Settings:
    from worker import faultpoints
    from worker.settings import load_settings

    settings = load_settings(**options)
    faultpoints.arm(settings.fault, settings.home)
    return settings


@contextmanager
def open_store(settings: Settings) -> Iterator[Database]:
    """The store, with its schema up to date: the embedded one is made and upgraded here, a fleet's never."""
    from storage.database import Database
    from storage.migrations import require_current, upgrade

    database = Database(settings.store_url)
    try:
        if settings.database_url is None:
            upgrade(database)
        else:
            _require_file(database)
        require_current(database)
        yield database
    finally:
        database.close()


def _require_file(database: Database) -> None:
    """Refuse a SQLite file that is not there, which connecting would make: most often its name is a slip."""
    from storage.errors import DatabaseUnreachable

    file = database.url.database or ""
    if database.is_sqlite and not file.startswith("file:") and not Path(file).exists():
        raise DatabaseUnreachable(
            f"there is no file {file}; correct DOCMILL_DATABASE_URL, or make the file with `docmill db upgrade`"
        )


@contextmanager
def open_broker(settings: Settings) -> Iterator[Broker]:
    """The fleet's queue, or an embedded server that lives as long as the block."""
    from worker.broker import Broker
    from worker.embedded import EmbeddedRedis

    if settings.redis_url is not None:
        broker = Broker(settings.redis_url)
        try:
            broker.ping()
            yield broker
        finally:
            broker.close()
        return
    with EmbeddedRedis() as embedded:
        broker = Broker(embedded.url)
        try:
            yield broker
        finally:
            broker.close()


def check_filled() -> None:
    """Refuse an option of the command that was given as nothing: it is a variable that was not set, or a slip."""
    context = click.get_current_context()
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if isinstance(option, click.Option) and isinstance(value, str) and not value.strip():
            raise click.BadParameter("it is empty; leave it out to have the default", ctx=context, param=option)


def check_out(out: Path | None) -> None:
    """Refuse a file that could not be written, before any work is done for it."""
    if out is None or out == STDOUT:
        return
    folder = out.absolute().parent
    if not out.name:
        raise click.BadParameter("name a file", param_hint="--out")
    if not folder.is_dir():
        raise click.BadParameter(f"there is no folder {folder}", param_hint="--out")
    if out.exists() and not out.is_file():
        return  # a pipe or a device: whether it takes anything shows when it is written
    try:
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise click.BadParameter(f"cannot write in {folder}: {error.strerror}", param_hint="--out") from error


def write_out(out: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON lines to a file, and say how many, or to stdout where that is meant."""
    from storage.results import to_jsonl, write_file, write_lines
    from worker import faultpoints

    lines = faultpoints.along("export", to_jsonl(rows))
    if out == STDOUT:
        write_lines(sys.stdout.buffer, lines)
        sys.stdout.buffer.flush()
    else:
        say(f"Wrote {write_file(out, lines):,} results to {out}.")


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    import orjson

    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode() + "\n")
