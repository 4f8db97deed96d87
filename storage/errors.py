"""Errors of the store. Errors that no caller tells apart by their type are a StorageError with a sentence.

StorageError
├── DatabaseUnreachable      no server, no such file
│   └── DatabaseSilent       the server, or the network to it, does not answer
├── DatabaseBusy             locked by another writer, or restarted, for longer than the bounded retry
├── DatabaseReadOnly         the file or the server takes no writes
├── RightMissing             the database's user may not do that
├── ValueRefused             a value that this database cannot store
├── UnexpectedDatabaseError  an error of the database that docmill does not know
├── SchemaOutOfDate          `docmill db upgrade` has not run, or the schema is that of a newer docmill
├── NotFound                 a job, step, document, pipeline or corpus that the store does not have
├── NothingEmbedded          a corpus without vectors to search, or with vectors that cannot be compared
├── KeyReused                an idempotency key with other arguments than before, or whose job was removed
├── JobStopped               the job was cancelled or stopped while something was being added to it
├── ExportBlocked            a job that has to end first goes on, or another process writes parts into the folder
└── LeaseLost                another process has the shard or run by now; its old holder may write nothing
"""

from __future__ import annotations

import traceback
from pathlib import PurePath

GRANTS_DOCS = "docs/security.md has the statements that grant it"


class StorageError(Exception):
    """The store could not do what was asked."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class DatabaseUnreachable(StorageError):
    """The database cannot be reached."""


class DatabaseSilent(DatabaseUnreachable):
    """The database does not answer."""


class DatabaseBusy(StorageError):
    """The database stayed locked or kept dropping the connection; try again."""


class DatabaseReadOnly(StorageError):
    """The database takes no writes."""


class RightMissing(StorageError):
    """The database's user lacks a right that this takes."""


class ValueRefused(StorageError):
    """The database cannot store a value."""


class UnexpectedDatabaseError(StorageError):
    """The database answers with an error that docmill does not know."""


class SchemaOutOfDate(StorageError):
    """The database's schema is not this version's; run `docmill db upgrade` as its owner."""


class NotFound(StorageError):
    """The store has no such job, step, document, pipeline or corpus."""


class NothingEmbedded(StorageError):
    """The corpus has no vectors, or none that can be compared; run a task over it that makes some."""


class KeyReused(StorageError):
    """The idempotency key came with other arguments before, or its job was removed."""


class JobStopped(StorageError):
    """The job was cancelled."""


class ExportBlocked(StorageError):
    """Results cannot be written yet: they still change, or another process is writing them."""


class LeaseLost(StorageError):
    """The lease of a shard or run was lost, or it ended: its holder may write nothing more of it."""


# Errors that do not depend on the statement: its caller tries again later.
PASSING = (DatabaseUnreachable, DatabaseBusy, UnexpectedDatabaseError)


def raised_at(error: Exception) -> str:
    """Return the type of an error and the line that raised it, without its words, which may be a document's."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {PurePath(last.filename).name}, line {last.lineno}"
