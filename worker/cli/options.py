"""Options and arguments of commands: those that several share, and those that pydantic models declare."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

import click
from annotated_types import Ge, Gt, Le
from click.shell_completion import CompletionItem
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docmill.storage import writers
from docmill.tasks import kinds
from docmill.tasks.backends import registry
from docmill.tasks.errors import hint
from docmill.tasks.kinds.options import Layer, flag, is_label_file, is_repeated, option, parse_label_file, value_type
from docmill.tasks.specs.pinning import NAMES
from docmill.worker.prices import Price

T = TypeVar("T")


def named(name: str, convert: Callable[[str], T]) -> click.ParamType[T]:
    """Return a type of parameters that a function converts. A ValueError of the function refuses the value."""
    made = click.types.FuncParamType(convert)
    made.name = name
    return made


def _price(value: str) -> Price:
    try:
        return Price.parse(value)
    except ValueError as error:
        raise ValueError(f"{value!r} is not a price; write the prices of a million tokens as 0.25,2") from error


class Choice(click.Choice[str]):
    """A choice of names. The refusal of another name suggests the nearest one."""

    def get_invalid_choice_message(self, value: str, ctx: click.Context | None) -> str:
        said = super().get_invalid_choice_message(value, ctx)
        return f"{said} {hint(value, self.choices)}".rstrip()


class _InWords:
    """The base class of numbers within bounds. A refusal states the bounds in words."""

    noun = "number"
    name = "number"
    fail: Callable[..., NoReturn]

    def _describe_range(self) -> str:
        """Return nothing: help names no bounds, and a refusal has them in words."""
        return ""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = super().convert(value, param, ctx)  # type: ignore[misc]
        except click.BadParameter:
            self.fail(self.refuse(value), param, ctx)
        if not math.isfinite(number):
            self.fail(self.refuse(value), param, ctx)
        return number

    def refuse(self, value: object) -> str:
        """Return the refusal of a value."""
        assert isinstance(self, click.IntRange | click.FloatRange)
        return f"{value!r} is not a {self.noun}{_bounds(self)}"


class WholeNumber(_InWords, click.IntRange):
    """A whole number."""

    noun = "whole number"
    name = "n"


class Number(_InWords, click.FloatRange):
    """A number, which may have a fraction."""


def _bounds(of: click.IntRange | click.FloatRange) -> str:
    """Return the bounds of a number as the end of a sentence that names it."""
    if of.min is None:
        return ""
    least = f" above {of.min:,}" if of.min_open else f" of at least {of.min:,}"
    if of.max is None:
        return least
    return f"{least} and at most {of.max:,}" if of.min_open else f" from {of.min:,} to {of.max:,}"


class _JobId(_InWords, click.IntRange):
    """A job's number."""

    def refuse(self, value: object) -> str:
        return f"{value!r} is not a job number; `docmill jobs` lists the jobs"


JOB_ID = _JobId(1, 2**63 - 1)
JOB = click.argument("job", type=JOB_ID)


def _job_or_corpus(value: str) -> int | str:
    is_number = value.isascii() and value.lstrip("-").isdecimal()
    return int(JOB_ID.convert(int(value), None, None)) if is_number else value


JOB_OR_CORPUS = named("JOB|CORPUS", _job_or_corpus)


class LayeredOption(click.Option):
    """An option that knows its section in the help of a task's command."""

    def __init__(self, *declarations: Any, layer: Layer = Layer.MORE, **attrs: Any) -> None:
        super().__init__(*declarations, **attrs)
        self.layer = layer


LARGEST_INT = 2**31 - 1  # of a column of the database
LATEST = click.option(
    "--limit", type=WholeNumber(1, LARGEST_INT), default=20, show_default=True, help="List only the latest N."
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
    + " ".join(f"{writer.name} {writer.note}." for writer in writers.every_writer() if writer.note),
)
WITH_INPUT = click.option(
    "--with-input",
    cls=LayeredOption,
    layer=Layer.COMMON,
    is_flag=True,
    help="Write the text of each document beside its result.",
)
DETAILS = click.option(
    "--details", is_flag=True, help="Write CSV and Excel with the technical columns of the other formats."
)


def check_filled() -> None:
    """Refuse an option whose value is empty: a shell variable was not set, or it is a slip."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in kinds.OPTIONS and option(kinds.OPTIONS[name]).may_be_empty:
            continue
        value = context.params.get(name)
        if isinstance(parameter, click.Option) and isinstance(value, str) and not value.strip():
            has_default = "[default: " in (parameter.help or "")
            instead = "leave it out to have the default" if has_default else "give a value, or leave it out"
            raise click.BadParameter(f"it is empty; {instead}", ctx=context, param=parameter)


def complete_files(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Complete files and folders, for an argument that may also be something else."""
    return [CompletionItem(incomplete, type="file")]


def complete_models(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Complete the names of models, or a path if no name fits."""
    named = [CompletionItem(name) for name in NAMES if name.startswith(incomplete)]
    return named or [CompletionItem(incomplete, type="file")]


def read_text(file: str, encoding: str = "utf-8-sig") -> str:
    """Return the text of a file. Raises ValueError, with which a parameter's type refuses a value."""
    try:
        return Path(file).read_text(encoding=encoding)
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text") from error


def _prompt(value: str) -> str:
    return read_text(value[1:], "utf-8") if value.startswith("@") else value


PROMPT, JSON_FILE = named("TEMPLATE|@FILE", _prompt), named("FILE", read_text)


CommandFunction = TypeVar("CommandFunction", bound=Callable[..., Any])
Completion = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]


BACKEND = click.option(
    "--backend",
    help=f"Backend: {', '.join(registry.names())}.  [default: the best installed one that supports the model]",
)


def _labels(value: str) -> Any:
    return parse_label_file(value, read_text(value)) if is_label_file(value) else value


LABELS = named("LABELS|FILE", _labels)


def declared(
    model: type[BaseModel], *names: str, completed: Completion | None = None
) -> Callable[[CommandFunction], CommandFunction]:
    """Return a decorator that adds options of a model: all, or those of these fields."""

    def add(command: CommandFunction) -> CommandFunction:
        for name in reversed(names or [*model.model_fields]):
            command = _decorator(name, model.model_fields[name], completed)(command)
        return command

    return add


def click_type(field: FieldInfo) -> click.ParamType[Any]:
    """Return the type of a field's values on the command line, with its bounds and choices."""
    kind = value_type(field)
    if option(field).is_template:
        return PROMPT
    if option(field).in_file:
        return JSON_FILE
    if kind is bool:
        return click.BOOL
    if option(field).asks or option(field).has_names:
        return click.STRING
    if get_origin(kind) is dict:
        return LABELS
    if get_origin(kind) is Literal:
        return Choice(get_args(kind))
    if kind not in {int, float}:
        return click.STRING
    least: Any = next((note.ge for note in field.metadata if isinstance(note, Ge)), None)
    above: Any = next((note.gt for note in field.metadata if isinstance(note, Gt)), None)
    most: Any = next((note.le for note in field.metadata if isinstance(note, Le)), None)
    type_: type[WholeNumber | Number] = WholeNumber if kind is int else Number
    return type_(least if above is None else above, most, min_open=above is not None)


def _decorator(
    name: str, field: FieldInfo, completed: Completion | None
) -> Callable[[CommandFunction], CommandFunction]:
    # The options of kinds get no default here: `KindOptions` or a setting has it.
    default = None if name in kinds.OPTIONS else field.default
    assert field.description is not None, name
    return click.option(
        flag(name, field),
        name,
        cls=LayeredOption,
        layer=option(field).layer or (Layer.TASK if name in kinds.OPTIONS else Layer.MORE),
        type=click_type(field),
        multiple=is_repeated(field),
        is_flag=value_type(field) is bool and not field.default,
        default=default,
        show_default=default is not None and default is not False,
        metavar=option(field).metavar,
        help=field.description,
        shell_complete=completed,
    )
