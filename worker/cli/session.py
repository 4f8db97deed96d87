"""What a command works with: settings, the store, the queue; opened for its length and closed after it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, cast

import click

from worker.cli.words import aligned, printable

if TYPE_CHECKING:
    from storage.database import Database
    from storage.writers import Target
    from worker.broker import Broker
    from worker.settings import Settings


STDERR = 2
QUIET = "docmill.quiet"
STDOUT = Path("-")
OUT = click.Path(dir_okay=False, allow_dash=True, path_type=Path)
FORMAT = click.option(
    "--format",
    "asked",
    type=click.Choice(["jsonl", "csv", "csv-excel", "parquet", "npy"]),
    help="Of the results; else the file's name says it (.csv, .parquet, .npy; .gz and .zst compress lines). "
    "csv-excel is CSV with the byte order mark that Excel needs.",
)


def be_quiet(context: click.Context, _: click.Parameter, quiet: bool) -> None:
    """Let a command print nothing on stderr but warnings and errors."""
    if quiet and not context.resilient_parsing:
        from worker.cli.show import talk

        context.find_root().meta[QUIET] = talk.quiet = True


def say(message: str, *, nl: bool = True) -> None:
    """Print talk to stderr, so that stdout stays data; nothing with --quiet."""
    context = click.get_current_context(silent=True)
    if context is None or not context.find_root().meta.get(QUIET):
        warn(message, nl=nl)


def warn(message: str, *, nl: bool = True) -> None:
    """Print a warning or an error to stderr. Where nobody listens any more, the work goes on."""
    try:
        click.echo(printable(message), nl=nl, err=True)
    except BrokenPipeError:
        nobody_reads(STDERR)


def answer(message: object, *, nl: bool = True) -> None:
    """Print an answer to stdout, without characters that a terminal would obey."""
    click.echo(printable(str(message)), nl=nl)


def answer_values(values: Mapping[str, str]) -> None:
    """Print names in bold, and their values beside them without characters that a terminal would obey."""
    click.echo(aligned({name: printable(value) for name, value in values.items()}))


def nobody_reads(number: int) -> None:
    """Let what goes to stdout (1) or stderr (2) from now on go nowhere, after its reader went away."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


BACKEND = click.option(
    "--backend",
    help="What computes, such as transformers.  [default: the best that is installed and takes the model]",
)


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
    from worker.ahead import still_waits

    if still_waits():
        with suppress(OSError):  # nobody reads any more
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


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

    database = Database(settings.store_url, patience=settings.patience)
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


@contextmanager
def queue_of(settings: Settings) -> Iterator[Broker | None]:
    """The fleet's queue, without asking whether it is up; None where there is none."""
    from worker.broker import Broker

    if settings.redis_url is None:
        yield None
        return
    broker = Broker(settings.redis_url)
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


def check_out(out: Path | None, asked: str | None = None, *, task: str = "embed") -> None:
    """Refuse a file that could not be written, before any work is done for it."""
    target = target_of(out, asked)
    if target is not None and target.format == "npy" and task != "embed":
        raise click.BadParameter("only vectors are written as .npy", param_hint="--out")
    if out is None or out == STDOUT:
        return
    folder = out.absolute().parent
    if not out.name:
        raise click.BadParameter("name a file", param_hint="--out")
    if out.is_dir():
        raise click.BadParameter(f"{out} is a folder; name a file", param_hint="--out")
    if out.exists() and not out.is_file():
        return  # a pipe or a device: whether it takes anything shows when it is written
    _check_writable(folder)


def check_folder(out: Path, asked: str | None = None, *, task: str = "embed") -> None:
    """Refuse a folder that could take no parts, before any work is done for it. What is in it is looked at later."""
    target = target_of(out, asked)
    if target is None:
        raise click.BadParameter("parts need a folder; name one", param_hint="--out")
    if target.format == "npy" and task != "embed":
        raise click.BadParameter("only vectors are written as .npy", param_hint="--out")
    if out.exists() and not out.is_dir():
        raise click.BadParameter(f"{out} is a file, and parts go into a folder", param_hint="--out")
    _check_writable(out if out.exists() else out.absolute().parent)


def _check_writable(folder: Path) -> None:
    """Refuse a folder that takes no new file."""
    if not folder.is_dir():
        raise click.BadParameter(f"there is no folder {folder}", param_hint="--out")
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise click.BadParameter(f"cannot write in {folder}: {error.strerror}", param_hint="--out") from error


def target_of(out: Path | None, asked: str | None) -> Target | None:
    """The file and its format, before any work is done for it; None for stdout and where nothing is written."""
    from storage.writers import FormatUnfit, Target

    try:
        if out is None and asked is not None:
            raise FormatUnfit("--format is that of a file: name it with --out (- is stdout)")
        if out is None or out == STDOUT:
            if asked in {"parquet", "npy"}:
                raise FormatUnfit(f"{asked} needs a file: name one with --out")
            return None
        return Target.of(out, asked)
    except FormatUnfit as error:
        raise click.BadParameter(str(error), param_hint="--out") from error


def check_out_is_no_input(out: Path | None, asked: str | None, source: str, *, parts: bool = False) -> None:
    """Refuse a file, or a folder of parts, that would replace the source or become one of its documents next time."""
    from storage.export.manifest import is_part
    from storage.readers.documents import suffixes
    from storage.readers.patterns import Pattern, is_pattern
    from storage.readers.sources import path_of

    target = target_of(out, asked)
    read = path_of(source)
    if target is None or read is None:
        return
    pattern = Pattern(source) if is_pattern(source) else None
    read = read.resolve()
    written_paths = (target.part(0) if parts else target).paths
    for path in (written.resolve() for written in written_paths):
        if path == read:
            raise click.BadParameter(f"{path} is the source, which would be lost", param_hint="--out")
        within = path.is_relative_to(read) and path.suffix.lower() in suffixes()
        within = within or (path.parent == read and is_part(path.name))
        if within or (pattern is not None and pattern.matches(path)):
            raise click.BadParameter(
                f"{path} would be one of the source's documents the next time; name a file elsewhere",
                param_hint="--out",
            )


def write_out(
    out: Path, rows: Iterable[dict[str, Any]], asked: str | None = None, documents: int | None = None
) -> None:
    """Write rows to a file, and say how many, or to stdout where that is meant: as JSON lines, or as was asked.

    ``documents`` says how many there may be, for the progress of a file.
    """
    from storage.writers import FormatUnfit, write_stream
    from worker import faultpoints
    from worker.cli.show import WritingBar

    rows = faultpoints.along("export", rows)
    target = target_of(out, asked)
    if target is None:
        from worker.cli.stdout import Harmless

        harmless = Harmless(sys.stdout.buffer, asked or "jsonl", sys.stdout.isatty())
        write_stream(rows, cast(BinaryIO, harmless), asked)
        sys.stdout.buffer.flush()
        return
    try:
        with WritingBar() as shown:
            written = target.write(rows if documents is None else shown.along(rows, documents))
        say(f"Wrote {written:,} results to {target}.")
    except FormatUnfit as error:
        raise click.BadParameter(str(error), param_hint="--out") from error


def print_json(value: Any) -> None:
    """Print one JSON document to stdout."""
    import orjson

    from worker.cli.stdout import escaped

    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode()
    sys.stdout.write(escaped(text) + "\n")
