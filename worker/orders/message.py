"""The arguments of a `docmill.enqueue` message, named as the command's options: checked before they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from storage.core.normalize import normalize
from storage.readers import credentials
from tasks import kinds
from tasks.kinds.options import is_list, option
from tasks.kinds.validation import WRONG_TYPE, sentence
from worker.errors import BadMessage
from worker.queue.messages import VERSION, is_id
from worker.submit.options import Request, Work

Model = TypeVar("Model", bound=BaseModel)

ORDER_ID = "order_id"
# The options of kinds by their names in messages.
_KIND_OPTIONS = {option(field).spelling or name: name for name, field in kinds.OPTIONS.items()}
_MESSAGE_NAMES = {name: spelling for spelling, name in _KIND_OPTIONS.items()}


def sender_id(message_id: str, arguments: dict[str, Any]) -> str:
    """Return the id by which a sender asks for its order: the one in the message, else the message's own."""
    given = arguments.get(ORDER_ID)
    return given if isinstance(given, str) and is_id(given) else message_id


def stored(arguments: dict[str, Any], *, refused: bool) -> dict[str, Any]:
    """Return the arguments as they are stored: of a refused order only source and task, without secrets."""
    if not refused:
        return {name: value for name, value in arguments.items() if name != ORDER_ID}
    about = {name: value for name, value in arguments.items() if name in {"source", "task"}}
    return {name: normalize(credentials.shown(value))[0] for name, value in about.items() if isinstance(value, str)}


def parse_enqueue(arguments: dict[str, Any]) -> Request:
    """Return the request in the arguments of a `docmill.enqueue` message, which are named as the command's options.

    Raises BadMessage for an unknown or missing name, or a wrong value.
    """
    given = dict(arguments)
    if given.pop("v", VERSION) != VERSION:
        raise BadMessage(f"docmill.enqueue takes v={VERSION}")
    order_id = given.pop(ORDER_ID, None)
    if order_id is not None and not (isinstance(order_id, str) and is_id(order_id)):
        raise BadMessage("docmill.enqueue: order_id is a text of at most 255 printable characters")
    for name, value in given.items():
        if isinstance(value, str) and normalize(value)[1]:
            raise BadMessage(f"docmill.enqueue: {name} has a NUL or half a character, which no database stores")
    of_kind = {_KIND_OPTIONS[name]: given.pop(name) for name in arguments if name in _KIND_OPTIONS}
    work = _valid(Work, given, "docmill.enqueue takes no argument {}")
    if work.source == "-":
        raise BadMessage("docmill.enqueue cannot read standard input")
    values = {name: value for name, value in of_kind.items() if value is not None}
    for name in filter(lambda name: is_list(kinds.OPTIONS[name]), values):
        values[name] = [values[name]]  # a message has plain values, so one text
    unknown = f"docmill.enqueue: {{}} has no meaning for {work.task}"
    return Request(**dict(work), options=_valid(kinds.kind(work.task).options, values, unknown))


def _valid(model: type[Model], values: Mapping[str, Any], unknown: str) -> Model:
    """Return a model with these values. Raises BadMessage; ``unknown`` is its sentence about other names."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        errors = error.errors()
        named = [(one["type"], str(one["loc"][0])) for one in errors]
        if extra := sorted(_MESSAGE_NAMES.get(name, name) for kind, name in named if kind == "extra_forbidden"):
            raise BadMessage(unknown.format(", ".join(extra))) from error
        if missing := [name for kind, name in named if kind == "missing"]:
            raise BadMessage(f"docmill.enqueue needs {' and '.join(missing)}") from error
        kind, name = named[0]
        wrong_type = kind in WRONG_TYPE
        problem = "has a value of the wrong type" if wrong_type else sentence(errors[0], model.model_fields[name])
        raise BadMessage(f"docmill.enqueue: {_MESSAGE_NAMES.get(name, name)} {problem}") from error
