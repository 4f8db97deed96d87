"""Errors of the store.

StorageError
├── DatabaseUrlUnknown       no URL, or one of a database that docmill does not know
├── DatabaseUnreachable      no server, no such file
│   └── DatabaseSilent       the server, or the network to it, does not answer
├── DatabaseClosed           this program closed it
├── RightMissing             the database's user may not do that
├── DatabaseBusy             locked by another writer, or restarted, for longer than the bounded retry
├── DatabaseReadOnly         the file or the server takes no writes
├── ValueRefused             a value that this database cannot store
├── UnexpectedDatabaseError  an error of the database that nobody classified
├── SchemaOutOfDate          `docmill db upgrade` has not run
│   └── OtherRelease         the schema of another docmill, which this one neither works with nor upgrades
├── UnknownKind              a kind of task that this docmill does not have
├── NoSuchJob                a job's number that the store does not know
├── ConditionInvalid         flags that do not exist, or a bound that is not like confidence<0.4
├── NoSuchStep               a step's name that the job does not have
├── NoSuchDocument           a document's id that the job does not have
├── NotReviewable            outputs that a person cannot judge
├── NoRisk                   no risk was fitted to these outputs
├── NoSuchPipeline           a pipeline's name that the store does not know
├── NoSuchCorpus             a corpus's name that the store does not know
├── CorpusInUse              an unfinished job works on what is to be removed
├── NothingEmbedded          a corpus without vectors to search, or with vectors that cannot be compared
├── CannotCompare            two jobs whose results cannot be compared
├── CannotMigrate            a corpus cannot get results of another model in place of those it has
├── TooManyLost              a migration would lose more results than it may
├── LibraryMissing           an extra of docmill that an operation needs is not installed
├── NeverDeduplicated        a corpus in which nobody looked for near duplicates
├── CannotIndex              the store takes no index of vectors, or not of these
├── KeyReused                an idempotency key that belongs to another command, or to a removed job
├── JobStopped               the job was cancelled or stopped while something was being added to it
├── TooManyVanished          a reading would mark more documents as vanished than its limit allows
├── JobUnfinished            parts are of a job that has ended
├── PartsRefused             a folder that holds something else takes no parts
├── FolderBusy               another process writes parts into the folder
├── ResultsChanged           a job's results became others while parts of them were written
└── LeaseLost                a shard or run belongs to another by now; what was made of it may not be written
"""

from __future__ import annotations

GRANTS_DOCS = "docs/security.md has the statements that grant it"


class StorageError(Exception):
    """The store could not do what was asked."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class DatabaseUrlUnknown(StorageError):
    """The URL is not that of a database that docmill knows."""


class DatabaseUnreachable(StorageError):
    """The database cannot be reached."""


class DatabaseSilent(DatabaseUnreachable):
    """The database does not answer."""


class DatabaseClosed(StorageError):
    """The database was closed by this program."""


class RightMissing(StorageError):
    """The database's user lacks a right that this takes."""


class DatabaseBusy(StorageError):
    """The database stayed locked or kept dropping the connection; try again."""


class DatabaseReadOnly(StorageError):
    """The database takes no writes."""


class ValueRefused(StorageError):
    """The database cannot store a value."""


class UnexpectedDatabaseError(StorageError):
    """The database answers with an error that docmill does not know."""


class SchemaOutOfDate(StorageError):
    """The database's schema is not this version's; run `docmill db upgrade`."""


class OtherRelease(SchemaOutOfDate):
    """The database's schema is another docmill's, which this one neither works with nor upgrades."""


class UnknownKind(StorageError):
    """The store has work of a kind of task that this docmill does not have."""


class NoSuchJob(StorageError):
    """There is no such job; `docmill jobs` lists them."""


class ConditionInvalid(StorageError):
    """The condition names a flag that does not exist, or a bound that is not like confidence<0.4."""


class NoSuchStep(StorageError):
    """The job has no such step."""


class NoSuchDocument(StorageError):
    """The job has no such document."""


class NotReviewable(StorageError):
    """A person cannot judge these outputs by reading them."""


class NoRisk(StorageError):
    """No risk was fitted to these outputs."""


class NoSuchPipeline(StorageError):
    """There is no such pipeline; `docmill pipeline list` names them."""


class NoSuchCorpus(StorageError):
    """There is no such corpus."""


class CorpusInUse(StorageError):
    """An unfinished job works on the corpus; `docmill cancel` ends it."""


class NothingEmbedded(StorageError):
    """The corpus has no vectors, or none that can be compared; run a task over it that makes some."""


class CannotCompare(StorageError):
    """The results of these jobs cannot be compared."""


class CannotMigrate(StorageError):
    """The corpus cannot be migrated as requested."""


class TooManyLost(StorageError):
    """More documents would lose their result by a migration than --max-failures allows."""


class LibraryMissing(StorageError):
    """The operation needs a library that is not installed."""


class NeverDeduplicated(StorageError):
    """No search for near duplicates was made in the corpus."""


class CannotIndex(StorageError):
    """The store cannot have an index of these vectors."""


class KeyReused(StorageError):
    """The idempotency key is that of another command, or of a job that was removed."""


class JobStopped(StorageError):
    """The job was cancelled."""


class TooManyVanished(StorageError):
    """A reading would mark more documents as vanished than its limit allows."""


class JobUnfinished(StorageError):
    """The job goes on; `docmill wait` waits for its end."""


class PartsRefused(StorageError):
    """The folder holds something else; name another one."""


class FolderBusy(StorageError):
    """Another process is writing parts into the folder; wait for its end."""


class ResultsChanged(StorageError):
    """The results changed while they were written."""


class LeaseLost(StorageError):
    """The lease of a shard or run was lost, or it ended: its holder may write nothing more of it."""


# Errors that do not depend on the statement: its caller tries again later.
PASSING = (DatabaseUnreachable, DatabaseBusy, UnexpectedDatabaseError)
