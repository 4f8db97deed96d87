"""What can go wrong in the store.

StorageError
├── DatabaseUrlUnknown       no URL, or one of a database that docmill does not know
├── DatabaseUnreachable      no server, no such file
├── RightMissing             the database's user may not do that
├── DatabaseBusy             locked by another writer, or restarted, for longer than the bounded retry
├── DatabaseReadOnly         the file or the server takes no writes
├── SchemaOutOfDate          `docmill db upgrade` has not run
├── NoSuchJob                a job's number that the store does not know
├── JobStopped               the job was cancelled or stopped while something was being added to it
└── LeaseLost                the shard belongs to another by now; what was computed may not be written
"""

from __future__ import annotations


class StorageError(Exception):
    """The store could not do what was asked."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class DatabaseUrlUnknown(StorageError):
    """The URL is not that of a database that docmill knows."""


class DatabaseUnreachable(StorageError):
    """The database cannot be reached."""


class RightMissing(StorageError):
    """The database's user lacks a right that this takes."""


class DatabaseBusy(StorageError):
    """The database stayed locked or kept dropping the connection; try again."""


class DatabaseReadOnly(StorageError):
    """The database takes no writes."""


class SchemaOutOfDate(StorageError):
    """The database's schema is not this version's; run `docmill db upgrade`."""


class NoSuchJob(StorageError):
    """There is no such job; `docmill jobs` lists them."""


class JobStopped(StorageError):
    """The job was cancelled."""


class LeaseLost(StorageError):
    """The shard was reclaimed or cancelled."""
