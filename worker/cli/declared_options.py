"""Options of commands that pydantic models declare: those of kinds of task, of a source and of a job."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import click
from annotated_types import Ge, Gt, Le
from click.shell_completion import CompletionItem
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docmill.tasks import kinds
from docmill.tasks.backends import registry
from docmill.tasks.kinds.options import flag, is_label_file, is_repeated, option, parse_label_file, value_type
from docmill.worker.cli.options import (
    JSON_FILE,
    PROMPT,
    Choice,
    Number,
    WholeNumber,
    check_filled,
    complete_files,
    complete_models,
    named,
    read_text,
)
from docmill.worker.submit.options import (
    DocumentOptions,
    EscalationOptions,
    JobOptions,
    ReadingOptions,
    Request,
    Work,
    checked,
)

if TYPE_CHECKING:
    from docmill.worker.settings import Settings


Command = TypeVar("Command", bound=Callable[..., Any])
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


def work_options(command: Command) -> Command:
    """Add the options that every command with a source has: what to do with it, and how to read it."""
    options = [
        click.argument("source", shell_complete=complete_files),
        click.option("--task", type=Choice(kinds.NAMES), required=True, help="Task for every document."),
        declared(Work, "model", completed=complete_models),
        declared(Work, "revision"),
        kind_options,
        declared(EscalationOptions),
        declared(Work, "corpus"),
        declared(ReadingOptions),
        declared(DocumentOptions),
        declared(JobOptions, "max_failures", "max_flagged"),
    ]
    for add in reversed(options):
        command = add(command)
    return command


def request_of(settings: Settings, options: dict[str, Any]) -> Request:
    """Return the request in a command's options. Raises BadOption."""
    check_filled()
    of_kind = given_options(options["task"], options, dtype=settings.dtype)
    return checked(of_kind, options)  # Click's ranges let nan pass


def given_options(task: str, options: dict[str, Any], *, dtype: str) -> kinds.KindOptions:
    """Take the options of kinds out of a command's, and return those of the task.

    ``dtype`` is the precision if none was given. Raises BadOption.
    """
    values = {name: options.pop(name) for name in kinds.OPTIONS}
    chosen = {name: value for name, value in values.items() if value not in (None, ())}
    return kinds.options(task, **{"dtype": dtype, **chosen})
