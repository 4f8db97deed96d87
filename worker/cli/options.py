"""Options and arguments that several commands share. What takes longer to import is in `declared_options`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from docmill.storage import writers
from docmill.storage.readers.registry import described
from docmill.tasks.errors import hint
from docmill.tasks.specs.pinning import NAMES
from docmill.worker.prices import Price
from docmill.worker.settings import Settings, load_settings

T = TypeVar("T")


def settings_from(**options: str | float | Path | None) -> Settings:
    """Return the settings with a command's options in place of those that the environment gives."""
    return load_settings(**options)


def named(name: str, convert: Callable[[str], T]) -> click.ParamType[T]:
    """Return the type of a parameter by the function that converts it. Its ValueError is a refusal."""
    made = click.types.FuncParamType(convert)
    made.name = name
    return made


def _price(value: str) -> Price:
    try:
        return Price.parse(value)
    except ValueError as error:
        raise ValueError(f"{value!r} is no price; write the prices of a million tokens as 0.25,2") from error


class Choice(click.Choice[str]):
    """One of some names. A refusal asks if a near one was meant."""

    def get_invalid_choice_message(self, value: str, ctx: click.Context | None) -> str:
        said = super().get_invalid_choice_message(value, ctx)
        return f"{said} {hint(value, self.choices)}".rstrip()


class WholeNumber(click.IntRange):
    """A whole number within bounds, which a refusal says in words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is not a whole number{_bounds(self)}", param, ctx)


class Number(click.FloatRange):
    """A number within bounds, which a refusal says in words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is not a number{_bounds(self)}", param, ctx)


def _bounds(of: WholeNumber | Number) -> str:
    """Return the bounds of a number as the end of a sentence that names it."""
    if of.min is None:
        return ""
    least = f" above {of.min:,}" if of.min_open else f" of at least {of.min:,}"
    if of.max is None:
        return least
    return f"{least} and at most {of.max:,}" if of.min_open else f" from {of.min:,} to {of.max:,}"


class _JobId(click.IntRange):
    """A job's number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is no number of a job; `docmill jobs` lists the jobs", param, ctx)


JOB_ID = _JobId(1, 2**63 - 1)
JOB = click.argument("job", type=JOB_ID)


def _job_or_corpus(value: str) -> int | str:
    is_number = value.isascii() and value.lstrip("-").isdecimal()
    return int(JOB_ID.convert(int(value), None, None)) if is_number else value


JOB_OR_CORPUS = named("JOB|CORPUS", _job_or_corpus)
LARGEST = 2**31 - 1  # of a column of the database
LATEST = click.option(
    "--limit", type=WholeNumber(1, LARGEST), default=20, show_default=True, help="List only the latest N."
)
DEVICE = click.option("--device", help="auto, cpu, cuda, remote, or a list such as cuda:0,cuda:1.")
PRICE = click.option(
    "--price",
    metavar="IN[,OUT]",
    type=named("price", _price),
    help="Prices of a million tokens read and written, such as 0.25,2. With them the job's cost is shown.",
)
ENDPOINT = click.option(
    "--endpoint", metavar="URL", help="Server of models named openai:NAME, such as http://localhost:8000/v1."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class FilledPath(click.Path):
    """A path that is not empty. An empty one would stand for the working folder."""

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        if not os.fspath(value).strip():
            instead = ", or leave it out" if isinstance(param, click.Option) else ""
            self.fail(f"it is empty; name a file{instead}", param, ctx)
        return super().convert(value, param, ctx)


OUT = FilledPath(dir_okay=False, allow_dash=True, path_type=Path)
FORMAT = click.option(
    "--format",
    "file_format",
    type=Choice(writers.names()),
    help=f"Format of the results, if the file's name does not say it ({', '.join(writers.suffixes()[1:])}; "
    f"{' and '.join(writers.COMPRESSIONS)} compress lines). "
    + " ".join(f"{writer.name} {writer.note}." for writer in writers.WRITERS if writer.note),
)


class SourceCommand(click.Command):
    """A command that reads a source: `{sources}` in its help stands for the list of the kinds that are read."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:

        self.help = (self.help or "").replace("{sources}", described())
        super().format_help_text(ctx, formatter)


def check_filled() -> None:
    """Refuse an option of the command that was given as nothing: it is a variable that was not set, or a slip."""
    context = click.get_current_context()
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if isinstance(parameter, click.Option) and isinstance(value, str) and not value.strip():
            has_default = "[default: " in (parameter.help or "")
            instead = "leave it out to have the default" if has_default else "give a value, or leave it out"
            raise click.BadParameter(f"it is empty; {instead}", ctx=context, param=parameter)


def complete_files(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Complete files and folders, for what may be a file and may be something else."""
    return [CompletionItem(incomplete, type="file")]


def complete_models(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Complete the models that have names; files where a path was begun."""
    named = [CompletionItem(name) for name in NAMES if name.startswith(incomplete)]
    return named or [CompletionItem(incomplete, type="file")]


def read_text(file: str, encoding: str = "utf-8-sig") -> str:
    """Return the text of a file. Raises ValueError, which is the refusal of a parameter."""
    try:
        return Path(file).read_text(encoding=encoding)
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text") from error


def _prompt(value: str) -> str:
    return read_text(value[1:], "utf-8") if value.startswith("@") else value


PROMPT, JSON_FILE = named("TEMPLATE|@FILE", _prompt), named("FILE", read_text)
