"""Errors of a source that cannot be read at all. A problem of one record is a Rejection, not an error.

SourceError (a StorageError)   no rights, a pipe, a device, damaged
├── SourceMissing        no such file or folder
├── EncodingUnnamed      not UTF-8, without a byte order mark
├── SourceUnsupported    it lacks a library, or a document, or what it needs to be read
│   └── KindUnknown      a kind of file that no reader takes
└── FieldUnknown         no record has the field that was named, or two columns share a name

A ReaderFailed is no SourceError: one file of many is rejected for those, but a bug ends the reading. Neither is a
ProgramFailed, which is the bug of a program that gives documents.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from docmill.storage.errors import StorageError


class SourceError(StorageError):
    """The source cannot be read."""


class SourceMissing(SourceError):
    """There is no such file or folder."""


class EncodingUnnamed(SourceError):
    """The source is no UTF-8, and does not say what it is. `likely` is the probable encoding."""

    def __init__(self, name: str, likely: str) -> None:
        super().__init__(
            f"{name} is no UTF-8, and has no byte order mark: name its encoding, probably --encoding {likely}"
        )
        self.likely = likely


class SourceUnsupported(SourceError):
    """It cannot be read here, or not in this way."""


class KindUnknown(SourceUnsupported):
    """No reader takes this kind of file."""


class FieldUnknown(SourceError):
    """No record has the field that was named."""


class BrokenStream(Exception):
    """The data ends early, is damaged or expands too far, or its transfer or its reader broke."""


class ProgramFailed(StorageError):
    """The iterator of a program raised an error, which is the cause of this one.

    ``once`` is True if no later call can name the same documents, so that nothing can continue their job.
    """

    once = False


class ReaderFailed(StorageError):
    """A reader of docmill failed on a file because of a bug. `trace` are the lines of code that led there."""

    def __init__(self, place: str, error: Exception) -> None:
        frames = list(traceback.walk_tb(error.__traceback__))
        ours = [step for step in frames if step[0].f_globals.get("__name__", "").startswith("docmill.storage.")]
        frame, line = ours[-1]
        reader = f"{frame.f_globals['__name__']}:{frame.f_code.co_name}"
        super().__init__(
            f"{place}: the reader {reader} failed ({type(error).__name__} in line {line}). This is a bug of docmill, "
            "not of the file. Please report it with this message; DOCMILL_LOG_LEVEL=debug adds the traceback"
        )
        self.trace = "".join(traceback.format_tb(error.__traceback__))


@contextmanager
def finding_bugs(place: str) -> Iterator[None]:
    """Raise ReaderFailed for an error that no reader raises on purpose; `place` is the file.

    Its message has none of the error's own words, since they may be a document's.
    """
    try:
        yield
    except (StorageError, BrokenStream, OSError, MemoryError):
        raise
    except Exception as error:
        raise ReaderFailed(place, error) from error
