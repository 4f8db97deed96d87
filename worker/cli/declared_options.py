"""Command-line options made of the pydantic models that declare them: those of kinds of task, and of a job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from annotated_types import Ge, Gt, Le
from click.shell_completion import CompletionItem
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docmill.tasks import kinds
from docmill.tasks.kinds.options import flag, is_label_file, is_repeated, option, parse_label_file, value_type
from docmill.worker.cli.options import Choice, Number, WholeNumber

Command = TypeVar("Command", bound=Callable[..., Any])
Completion = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]


class PromptType(click.ParamType[str]):
    """A template, or the text of a file as @FILE."""

    name = "TEMPLATE|@FILE"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value.startswith("@"):
            return value
        try:
            return Path(value[1:]).read_text(encoding="utf-8")
        except OSError as error:
            self.fail(f"cannot read {value[1:]}: {error.strerror}", param, ctx)
        except UnicodeDecodeError:
            self.fail(f"{value[1:]} is not UTF-8 text", param, ctx)


class JsonFileType(click.ParamType[str]):
    """The text of a file with JSON."""

    name = "FILE"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return Path(value).read_text(encoding="utf-8-sig")
        except OSError as error:
            self.fail(f"cannot read {value}: {error.strerror}", param, ctx)
        except UnicodeDecodeError:
            self.fail(f"{value} is not UTF-8 text", param, ctx)


class LabelsType(click.ParamType[Any]):
    """Labels with commas between them, or those of a file."""

    name = "LABELS|FILE"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not is_label_file(value):
            return value
        try:
            return parse_label_file(value, Path(value).read_text(encoding="utf-8-sig"))
        except OSError as error:
            self.fail(f"cannot read {value}: {error.strerror}", param, ctx)
        except UnicodeDecodeError:
            self.fail(f"{value} is not UTF-8 text", param, ctx)


def declared(
    model: type[BaseModel], *names: str, completed: Completion | None = None
) -> Callable[[Command], Command]:
    """Return a decorator that adds options of a model: all, or those of these fields."""

    def add(command: Command) -> Command:
        for name in reversed(names or [*model.model_fields]):
            command = _decorator(name, model.model_fields[name], completed)(command)
        return command

    return add


def kind_options(command: Command) -> Command:
    """Add the options of all kinds; the help names the kinds of an option that not all have."""
    for name, field in reversed([*kinds.OPTIONS.items()]):
        command = _decorator(name, field)(command)
    return command


def click_type(field: FieldInfo) -> click.ParamType[Any]:
    """Return the type of a field's values on the command line, with its bounds and choices."""
    kind = value_type(field)
    if option(field).is_template:
        return PromptType()
    if option(field).in_file:
        return JsonFileType()
    if kind is bool:
        return click.BOOL
    if option(field).asks or option(field).has_names:
        return click.STRING
    if get_origin(kind) is dict:
        return LabelsType()
    if get_origin(kind) is Literal:
        return Choice(get_args(kind))
    if kind not in {int, float}:
        return click.STRING
    least: Any = next((note.ge for note in field.metadata if isinstance(note, Ge)), None)
    above: Any = next((note.gt for note in field.metadata if isinstance(note, Gt)), None)
    most: Any = next((note.le for note in field.metadata if isinstance(note, Le)), None)
    type_: type[WholeNumber | Number] = WholeNumber if kind is int else Number
    return type_(least if above is None else above, most, min_open=above is not None)


def _decorator(name: str, field: FieldInfo, completed: Completion | None = None) -> Callable[[Command], Command]:
    # An option of a kind that is left out has the model's own default, or that of a setting.
    default = None if name in kinds.OPTIONS else field.default
    return click.option(
        flag(name, field),
        name,
        type=click_type(field),
        multiple=is_repeated(field),
        is_flag=value_type(field) is bool and not field.default,
        default=default,
        show_default=default is not None and default is not False,
        metavar=option(field).metavar,
        help=_help(name, field),
        shell_complete=completed,
    )


def _help(name: str, field: FieldInfo) -> str:
    assert field.description is not None, name
    names = kinds.with_option(name)
    if names in {kinds.NAMES, ()}:
        return field.description
    text, default, more = field.description.partition("  [default")
    return f"{text} ({', '.join(names)}){default}{more}"
