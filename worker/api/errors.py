"""Errors of the Python API.

Error
├── Unreachable  the database, the queue or the model hub cannot be reached or used
└── TimedOut     a job did not end in time
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from storage.readers.errors import ProgramFailed
from worker.cli.exit_codes import UNREACHABLE, exit_code, sentence

T = TypeVar("T")


class Error(Exception):
    """docmill could not do what was asked. The message is the one that the command line prints."""


class Unreachable(Error):
    """The database, the queue or the model hub cannot be reached or used."""


class TimedOut(Error, TimeoutError):
    """A job did not end in time. The workers continue it."""


@contextmanager
def explained() -> Iterator[None]:
    """Raise docmill's own errors as an Error. Bugs propagate, and so do errors of an iterator of documents."""
    try:
        yield
    except Error:
        raise
    except ProgramFailed as error:
        raised = error.__cause__
        assert raised is not None
        raise raised from raised.__cause__
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        raise (Unreachable if code == UNREACHABLE else Error)(sentence(error)) from error


def explained_each(values: Iterable[T]) -> Iterator[T]:
    """Yield the values. Raise docmill's own errors as an Error."""
    with explained():
        yield from values
