"""Errors of queues and messages, and the places in TOML files that errors name.

WorkerError            also for wrong settings and pipeline files: it lists all their faults
├── BrokerUnreachable  Redis is missing or refuses, or an embedded Redis does not start here
├── JobBlocked         no worker can serve a job that is computed here
├── OrderBusy          another worker carries out the same order
└── BadMessage         a message that is not of this protocol
"""

from __future__ import annotations

import json
import re
from pathlib import Path


class WorkerError(Exception):
    """The worker could not carry out the request."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class BrokerUnreachable(WorkerError):
    """Redis cannot be reached."""


class JobBlocked(WorkerError):
    """No worker can serve the job."""


class OrderBusy(WorkerError):
    """Another worker reads the source of this order."""


class BadMessage(WorkerError):
    """The message is not one of docmill's."""


# Keys, and positions in lists from 0, from the top of a file to a value: ("step", 1, "model").
FieldPath = tuple[str | int, ...]
Fault = tuple[FieldPath, str]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def write_place(place: FieldPath) -> str:
    """Return a place as a person writes it: ``step[2].model``. Positions in lists count from 1."""
    written = ""
    for part in place:
        if isinstance(part, int):
            written += f"[{part + 1}]"
        else:
            written += f".{part if _BARE_KEY.fullmatch(part) else json.dumps(part, ensure_ascii=False)}"
    return written.removeprefix(".")


def put_place(place: FieldPath, sentence: str) -> str:
    """Return PLACE: SENTENCE. If the sentence begins with the place's key, the place stands there instead."""
    if not place:
        return sentence
    key = str(place[-1])
    if sentence.startswith((f"{key} ", f"{key}: ")):
        return write_place(place) + sentence.removeprefix(key)
    return f"{write_place(place)}: {sentence}"


def describe_bad_syntax(error: Exception, content: bytes, path: Path) -> str:
    """Return FILE:LINE: SENTENCE for a file that is not UTF-8 or not TOML, by the error of decoding or of tomllib."""
    if isinstance(error, UnicodeDecodeError):
        line = content.count(b"\n", 0, error.start) + 1
        return f"{path}:{line}: this is not UTF-8 text; save the file as UTF-8"
    if isinstance(error, RecursionError):
        return f"{path}:1: the brackets in this file are nested too deep"
    reason = str(error)
    at = re.search(r" \(at line (\d+), column \d+\)$", reason)
    line = int(at[1]) if at else content.count(b"\n") + 1  # tomllib says "at end of document", or no place at all
    return f"{path}:{line}: this is not TOML: {reason.removesuffix(at[0]) if at else reason}"
