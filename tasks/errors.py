"""Errors of models and of the options given for them, and suggestions for misspelt names.

::

    TaskError
    ├── ModelError
    │   ├── ModelNotFound
    │   ├── ModelCorrupt
    │   ├── HubUnreachable
    │   └── ModelUnsuitable
    ├── CannotServe
    │   ├── DeviceUnusable
    │   ├── NotInstalled
    │   ├── ServerUnreachable
    │   └── Unsuited
    ├── BadOption
    ├── BadSchema
    ├── PromptTooLong
    ├── OutOfMemory
    ├── DeviceLost
    ├── ServerAway
    └── EngineStopped
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable

from docmill.storage.extras import LOCAL, install


class TaskError(Exception):
    """A task could not be carried out."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.getdoc(type(self)))


class ModelError(TaskError):
    """The model cannot be used."""


class ModelNotFound(ModelError):
    """There is no such model: give a name from `docmill models list`, a folder, or a hub id."""


class ModelCorrupt(ModelError):
    """The model's files are not whole, or not those that were pinned: copy or download the model again."""


class HubUnreachable(ModelError):
    """The model hub does not answer, and the model is not in the local cache."""


class ModelUnsuitable(ModelError):
    """The model's architecture cannot do this task."""


class CannotServe(TaskError):
    """This worker cannot serve the spec."""


class DeviceUnusable(CannotServe):
    """The device can compute nothing, whatever the model."""


class NotInstalled(CannotServe):
    """A library that the spec needs is not installed on this machine."""


class ServerUnreachable(CannotServe):
    """The server of a model does not answer, or is busy."""


class Unsuited(CannotServe):
    """This backend cannot take the model; another may."""


class BadOption(TaskError):
    """An option does not fit the task or the model."""


class BadSchema(TaskError):
    """A value that is no schema, or a schema that no model can be held to. The message ends a sentence about it."""


class PromptTooLong(TaskError):
    """A document's prompt is longer than the model's window."""


class OutOfMemory(TaskError):
    """The batch does not fit in the device's memory."""


class DeviceLost(TaskError):
    """The device can only return errors: the process must start again."""


class ServerAway(TaskError):
    """The server of a model refuses all requests, or answers none: the texts wait for it."""

    def __init__(self, message: str | None = None, *, may_pass: bool = False) -> None:
        """Make an error; ``may_pass`` is True if the same requests may have answers later."""
        super().__init__(message)
        self.may_pass = may_pass


class EngineStopped(TaskError):
    """The engine was drained or closed and takes no more texts."""


_DESCRIBED_CHARS = 300


def describe_error(error: Exception, extra: str = LOCAL.name) -> str:
    """Return the type and the message of a library's error, on one line of bounded length.

    For a module that is missing, return its name and the command that installs the ``extra``.
    """
    cause: BaseException | None = error
    while isinstance(cause, ImportError):
        if isinstance(cause, ModuleNotFoundError) and cause.name is not None:  # transformers' own has no name
            return f"the Python module {cause.name} is missing; this installs it: {install(extra)}"
        cause = cause.__cause__
    message = " ".join(str(error).split())[:_DESCRIBED_CHARS]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


# Two exchanged letters in a word of six give a ratio of 0.83. Words that only share letters stay below 0.75.
_NEAR = 0.8


def find_similar(written: str, known: Iterable[str]) -> list[str]:
    """Return the known names that differ from a written name by a typing error, the nearest first."""
    return difflib.get_close_matches(written.lower(), list(known), cutoff=_NEAR)


def suggest(written: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the question "Did you mean …?" with similar known names, or `otherwise` if there are none."""
    near = find_similar(written, known)
    return f"Did you mean {' or '.join(near)}?" if near else otherwise


def is_server_away(error: BaseException | None) -> bool:
    """Return True for the error of a model's server that may answer later."""
    return isinstance(error, ServerUnreachable) or (isinstance(error, ServerAway) and error.may_pass)
