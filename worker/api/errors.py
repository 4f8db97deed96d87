"""Errors of the Python API.

Error
├── Unreachable  the database, the queue or the model hub cannot be reached or used
└── TimedOut     a job did not end in time
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from numbers import Integral
from typing import ParamSpec, TypeVar

from docmill.storage.readers.errors import ProgramFailed
from docmill.tasks.kinds.options import MOST, shown
from docmill.worker.jobs.errors import UNREACHABLE, exit_code, sentence

P = ParamSpec("P")
T = TypeVar("T")


class Error(Exception):
    """docmill could not carry out a call. The command line prints the same message."""


class Unreachable(Error):
    """The database, the queue or the model hub cannot be reached or used."""


class TimedOut(Error, TimeoutError):
    """A job did not end in time. The workers continue it."""


def explained(function: Callable[P, T]) -> Callable[P, T]:
    """Return the function, raising docmill's own errors as an Error without the frames that led there.

    Bugs propagate with their traceback, and so do errors of an iterator of documents.
    """

    @wraps(function)
    def explaining(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raised = _for_users(error)
            if raised is None:
                raise
        raise raised from raised.__cause__

    return explaining


def require_whole_number(name: str, value: object, most: int = MOST) -> int:
    """Return an argument that is a whole number from 1 to `most`. Raises Error for another value."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not 1 <= int(value) <= most:
        raise Error(f"{name} must be a whole number between 1 and {most:,}, not {shown(value)}")
    return int(value)


def require_texts(**arguments: object) -> None:
    """Raise Error for an argument that is not a text."""
    for name, value in arguments.items():
        if not isinstance(value, str):
            raise Error(f"{name} must be a text, not {shown(value)}")


def explained_each(values: Iterable[T]) -> Iterator[T]:
    """Yield the values. Raise docmill's own errors as an Error."""
    following = explained(iter(values).__next__)
    while True:
        try:
            value = following()
        except StopIteration:
            return
        yield value


def _for_users(error: Exception) -> Exception | None:
    """Return the exception to raise in place of one of docmill's own; None for a bug."""
    if isinstance(error, ProgramFailed):
        assert isinstance(error.__cause__, Exception)
        return error.__cause__
    if isinstance(error, Error):
        error.__cause__ = None
        return error.with_traceback(None)
    code = exit_code(error)
    if code is None:
        return None
    return (Unreachable if code == UNREACHABLE else Error)(sentence(error))
