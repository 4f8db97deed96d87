"""The arguments of a `docmill.enqueue` message, named as the command's options: checked before they are stored."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from storage.core.normalize import normalize
from storage.readers import credentials
from tasks import kinds
from tasks.kinds.options import is_list, key, option
from tasks.kinds.validation import WRONG_TYPE, sentence
from worker.errors import BadMessage
from worker.queue.messages import VERSION, is_id
from worker.submit import prune_rejected
from worker.submit.request import Request

ORDER_ID = "order_id"
# Options that a message names otherwise than their fields.
_FIELDS = {key(name, field): name for name, field in kinds.OPTIONS.items() if option(field).spelling is not None}
_REQUEST_FIELDS = {f.name for f in fields(Request)} - {"options"}
_WHOLE_NUMBERS = {"limit", "priority"}
_SWITCHES = {"strict", "prune"}
_NUMBERS = {"max_failures", "prune_max"}


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
    """A request from the arguments of a `docmill.enqueue` message, which are named as the command's options.

    Raises BadMessage for an unknown or missing name, or a value that is no plain one.
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
    given = {_FIELDS.get(name, name): value for name, value in given.items()}
    if unknown := sorted(given.keys() - kinds.OPTIONS.keys() - _REQUEST_FIELDS):
        raise BadMessage(f"docmill.enqueue takes no argument {', '.join(unknown)}")
    if missing := sorted({"source", "task"} - given.keys()):
        raise BadMessage(f"docmill.enqueue needs {' and '.join(missing)}")
    request = {name: value for name, value in given.items() if name in _REQUEST_FIELDS}
    for name, value in request.items():
        if not isinstance(value, _type_of(name)) or (isinstance(value, bool) and name not in _SWITCHES):
            raise BadMessage(f"docmill.enqueue: {name} has a value of the wrong type")
        if isinstance(value, int | float) and abs(value) >= 2**31:
            raise BadMessage(f"docmill.enqueue: {name} is too large a number")
    if request["task"] not in kinds.NAMES:
        raise BadMessage(f"docmill.enqueue: task is one of {', '.join(kinds.NAMES)}")
    _check_bounds(request)
    if request["source"] == "-":
        raise BadMessage("docmill.enqueue cannot read standard input")
    return Request(options=_options(request["task"], given), **request)


def _options(task: str, given: dict[str, Any]) -> kinds.KindOptions:
    """Return the options of a task in a message's arguments. Raises BadMessage."""
    asked = {name: given[name] for name in kinds.OPTIONS if given.get(name) is not None}
    for name, value in asked.items():
        if task not in kinds.with_option(name):
            raise BadMessage(f"docmill.enqueue: {name} has no meaning for {task}")
        if is_list(kinds.OPTIONS[name]):
            asked[name] = [value]  # a message has plain values, so one text
    try:
        return kinds.kind(task).options(**asked)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        wrong = (
            "has a value of the wrong type" if first["type"] in WRONG_TYPE else sentence(first, kinds.OPTIONS[name])
        )
        raise BadMessage(f"docmill.enqueue: {name} {wrong}") from error


def _check_bounds(given: dict[str, Any]) -> None:
    if given.get("limit", 1) is not None and given.get("limit", 1) < 1:
        raise BadMessage("docmill.enqueue: limit is at least 1")
    if not 0 <= (given.get("prune_max") or 0) <= 100:
        raise BadMessage("docmill.enqueue: prune_max is a percentage, 0 to 100")
    if given.get("prune_rejected") not in {None, *prune_rejected.CHOICES}:
        raise BadMessage(f"docmill.enqueue: prune_rejected is one of {', '.join(prune_rejected.CHOICES)}")


def _type_of(name: str) -> Any:
    if name in {"source", "task", "text_field", "id_field"}:
        return str
    if name in _WHOLE_NUMBERS:
        return int if name == "priority" else int | None
    if name in _NUMBERS:
        return int | float | None
    return bool if name in _SWITCHES else str | None
