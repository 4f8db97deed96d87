"""Options and arguments of commands: those that several share, and those that pydantic models declare."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from annotated_types import Ge, Gt, Le
from click.shell_completion import CompletionItem
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docmill.storage import writers
from docmill.tasks import kinds
from docmill.tasks.backends import registry
from docmill.tasks.errors import suggest
from docmill.tasks.kinds.options import Layer, flag, is_label_file, is_repeated, option, parse_label_file, value_type
from docmill.tasks.specs.pinning import NAMES
from docmill.worker.prices import Price

T = TypeVar("T")
NumberT = TypeVar("NumberT", int, float)


def named(name: str, convert: Callable[[str], T]) -> click.ParamType[T]:
    """Return a type of parameters that a function converts. A ValueError of the function refuses the value."""
    made = click.types.FuncParamType(convert)
    made.name = name
    return made


class Choice(click.Choice[str]):
    """A choice of names. The refusal of another name suggests the nearest one."""

    def get_invalid_choice_message(self, value: str, ctx: click.Context | None) -> str:
        said = super().get_invalid_choice_message(value, ctx)
        return f"{said} {suggest(value, self.choices)}".rstrip()


def whole_number(least: int, most: int | None = None) -> click.ParamType[int]:
    """Return a type of whole numbers within bounds. A refusal states the bounds in words."""
    return named("n", _bounded(int, least, most, False, f"whole number{_bounds(least, most, False)}"))


def number(
    least: float | None = None, most: float | None = None, *, min_open: bool = False
) -> click.ParamType[float]:
    """Return a type of numbers within bounds, which may have a fraction. A refusal states the bounds in words."""
    return named("number", _bounded(float, least, most, min_open, f"number{_bounds(least, most, min_open)}"))


def _bounded(
    convert: Callable[[str], NumberT], least: float | None, most: float | None, min_open: bool, noun: str
) -> Callable[[str], NumberT]:
    """Return a function that converts a text to a finite number within bounds. Its ValueError says `noun`."""

    def bounded(value: str) -> NumberT:
        with suppress(ValueError, OverflowError):  # no number, or one that no float holds
            converted = convert(value)
            above = least is None or (converted > least if min_open else converted >= least)
            if math.isfinite(converted) and above and (most is None or converted <= most):
                return converted
        raise ValueError(f"{value!r} is not a {noun}")

    return bounded


def _bounds(least: float | None, most: float | None, min_open: bool) -> str:
    """Return the bounds of a number as the end of a sentence that names it."""
    if least is None:
        return ""
    above = f" above {least:,}" if min_open else f" of at least {least:,}"
    if most is None:
        return above
    return f"{above} and at most {most:,}" if min_open else f" from {least:,} to {most:,}"


_job_id = _bounded(int, 1, 2**63 - 1, False, "job number; `docmill jobs` lists the jobs")
JOB_ID = named("number", _job_id)
JOB = click.argument("job", type=JOB_ID)


def _job_or_corpus(value: str) -> int | str:
    is_number = value.isascii() and value.lstrip("-").isdecimal()
    return _job_id(value) if is_number else value


JOB_OR_CORPUS = named("JOB|CORPUS", _job_or_corpus)


class LayeredOption(click.Option):
    """An option that knows its section in the help of a task's command."""

    def __init__(self, *declarations: Any, layer: Layer = Layer.MORE, **attrs: Any) -> None:
        super().__init__(*declarations, **attrs)
        self.layer = layer


LARGEST_INT = 2**31 - 1  # of a column of the database
LATEST = click.option(
    "--limit", type=whole_number(1, LARGEST_INT), default=20, show_default=True, help="List only the latest N."
)
DEVICE = click.option("--device", help="auto, cpu, cuda, remote, or a list such as cuda:0,cuda:1.")
PRICE = click.option(
    "--price",
    metavar="IN[,OUT]",
    type=named("price", Price.parse),
    help="Prices of a million tokens read and written, such as 0.25,2. With them the job's cost is shown.",
)
ENDPOINT = click.option(
    "--endpoint", metavar="URL", help="Server of models named openai:NAME, such as http://localhost:8000/v1."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
YES = click.option("--yes", is_flag=True, help="Do not ask.")


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
    """Refuse an option with an empty value: a shell variable was not set, or it is a slip."""
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
    """Return a decorator that adds options of a model: of all fields, or of the named ones."""

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
    if kind is int:
        return whole_number(least, most)
    return number(least if above is None else above, most, min_open=above is not None)


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
