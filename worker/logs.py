"""The log of workers: lines of text, or JSON objects that a log collector reads.

An event is logged as `log.info("shard_done shard=%d", 5)`: a name, then fields. As JSON each field is a member of its
own, with its type.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO, cast

import orjson

TEXT, JSON = "text", "json"
LINE = "%(asctime)s %(levelname)s %(name)s %(message)s"

_PLACEHOLDER = re.compile(r"(?:(?P<field>\w+)=)?%(?:\.\d+)?[a-z%]")
_EVENT = re.compile(r"[\w.]+")
_OWN = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}
_work: ContextVar[dict[str, int | str]] = ContextVar("work", default={})  # noqa: B039  (it is replaced, never changed)


@contextmanager
def working_on(**fields: int | str | None) -> Iterator[None]:
    """Add fields, such as `job` and `shard`, to each event that this thread logs as JSON in the meantime.

    A field that is None is left out.
    """
    token = _work.set({**_work.get(), **{name: value for name, value in fields.items() if value is not None}})
    try:
        yield
    finally:
        _work.reset(token)


# Controls, and characters that nobody sees and that change how the text around them is shown. The joiners U+200C and
# U+200D are not among them: Persian and Hindi words and some emoji need them.
UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def escape_unseen(text: str) -> str:
    """Return a text with a code such as [U+202E] for each unseen character; tabs and line ends stay."""
    return UNSEEN.sub(lambda match: match[0] if match[0] in "\t\n" else f"[U+{ord(match[0]):04X}]", text)


class _TextFormatter(logging.Formatter):
    """Writes characters that a terminal would obey as their codes: a line may name a file, or quote a library."""

    def format(self, record: logging.LogRecord) -> str:
        return escape_unseen(super().format(record))


def formatter(form: str, **constant: str) -> logging.Formatter:
    """Return the formatter of a form, `text` or `json`. The `constant` fields stand in each JSON object."""
    return JsonFormatter(**constant) if form == JSON else _TextFormatter(LINE)


def start(level: str, form: str, **constant: str) -> None:
    """Write this process's log to stderr, from a level such as `warning` on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(form, **constant))
    logging.basicConfig(level=level.upper(), handlers=[handler])


class _Lossy:
    """A text stream that drops text that cannot be written, as on a full disk or after its reader went away."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def close(self) -> None:
        with suppress(OSError):
            self._stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def ignore_write_errors(stream: TextIO) -> TextIO:
    """Return the stream without its errors of writing: messages for people must not end the work."""
    return stream if isinstance(stream, _Lossy) else cast(TextIO, _Lossy(stream))


class JsonFormatter(logging.Formatter):
    """Formats an event as one line of JSON: `time`, `level`, `logger`, `event`, and the event's fields.

    A record of a library that names no fields has its sentence as `message`. An exception's traceback is `exception`.
    """

    def __init__(self, **constant: str) -> None:
        super().__init__()
        self._constant = constant

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a line break."""
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **_event(record),
            **_work.get(),
            **fields_of(record),
            **self._constant,
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(said, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except orjson.JSONEncodeError:  # a file name that is no UTF-8, or a number of more than 64 bits
            return json.dumps(said, default=str)


def _event(record: logging.LogRecord) -> dict[str, str]:
    """Return the event's name for a record of docmill, the sentence for one of a library."""
    message = record.getMessage()
    named = _EVENT.match(message)
    return {"event": named[0]} if named and record.name.startswith("docmill.") else {"message": message}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of an event: those named in its template, and those of `extra`."""
    extra = {name: value for name, value in vars(record).items() if name not in _OWN}
    values = record.args
    if not isinstance(record.msg, str) or not isinstance(values, tuple):
        return extra
    fields: dict[str, Any] = {}
    for name, value in zip(_names(record.msg), values, strict=False):
        if name is not None:
            fields[name] = value if isinstance(value, int | float | str) or value is None else str(value)
        elif is_dataclass(value) and not isinstance(value, type):
            fields |= asdict(value)
    return extra | fields


@lru_cache(maxsize=1_000)
def _names(template: str) -> tuple[str | None, ...]:
    """Return the field of each placeholder of a template, None for one that belongs to no field."""
    return tuple(match["field"] for match in _PLACEHOLDER.finditer(template) if not match[0].endswith("%%"))
