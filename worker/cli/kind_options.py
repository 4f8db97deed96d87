"""The command-line options of kinds of task, made of the models that declare them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from tasks import kinds
from tasks.kinds.options import Option, flag, is_list, option, value_type

_RANGES: dict[Any, Callable[..., click.ParamType[Any]]] = {int: click.IntRange, float: click.FloatRange}


class PromptType(click.ParamType[str]):
    """A template, or the text of a file as @FILE."""

    name = "TEMPLATE|@FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value.startswith("@"):
            return str(value)
        try:
            return Path(value[1:]).read_text(encoding="utf-8")
        except OSError as error:
            self.fail(f"cannot read {value[1:]}: {error.strerror}", param, ctx)
        except UnicodeDecodeError:
            self.fail(f"{value[1:]} is not UTF-8 text", param, ctx)


def kind_options() -> list[Callable[..., Any]]:
    """Return decorators for the options of all kinds; the help names the kinds of an option that not all have."""
    return [_decorator(name, field) for name, field in kinds.OPTIONS.items()]


def given_options(task: str, given: dict[str, Any], *, dtype: str) -> kinds.KindOptions:
    """Take the options of kinds out of a command's, and return those of the task.

    ``dtype`` is the precision if none was given. Raises BadOption.
    """
    values = {name: given.pop(name) for name in kinds.OPTIONS}
    chosen = {name: value for name, value in values.items() if value not in (None, ())}
    return kinds.options(task, **{"dtype": dtype, **chosen})


def _decorator(name: str, field: FieldInfo) -> Callable[..., Any]:
    said = option(field)
    return click.option(
        flag(name, field),
        name,
        type=_click_type(field, said),
        multiple=is_list(field),
        metavar=said.metavar,
        help=_help(name, field),
    )


def _click_type(field: FieldInfo, said: Option) -> click.ParamType[Any]:
    if said.is_template:
        return PromptType()
    kind = value_type(field)
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if kind in _RANGES:
        least = next((note.ge for note in field.metadata if isinstance(note, Ge)), None)
        above = next((note.gt for note in field.metadata if isinstance(note, Gt)), None)
        most = next((note.le for note in field.metadata if isinstance(note, Le)), None)
        return _RANGES[kind](least if above is None else above, most, min_open=above is not None)
    return click.STRING


def _help(name: str, field: FieldInfo) -> str:
    assert field.description is not None, name
    names = kinds.with_option(name)
    if names == kinds.NAMES:
        return field.description
    text, default, more = field.description.partition("  [default")
    return f"{text} ({', '.join(names)}){default}{more}"
