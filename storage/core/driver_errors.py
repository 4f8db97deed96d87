"""Translate drivers' errors into docmill's, by their codes (SQLSTATE, SQLite's result codes), not by their texts."""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import exc as sa_exc

from docmill.storage.errors import (
    GRANTS_DOCS,
    DatabaseBusy,
    DatabaseReadOnly,
    DatabaseSilent,
    DatabaseUnreachable,
    RightMissing,
    SchemaOutOfDate,
    StorageError,
    UnexpectedDatabaseError,
    ValueRefused,
)

_SQLITE_UNREACHABLE = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PERM,
}
_IDLE_FOR_TOO_LONG = "25P03"  # the server ended a transaction whose client was idle, such as a suspended machine
# A text or corpus that was found and is gone when it is referred to: the next try stores it anew, or does without.
_REFER_TO_WHAT_IS_REMOVED = {
    "fk_ingest_corpus_id",
    "fk_document_content_id",
    "fk_outcome_content_id",
    "fk_outcome_output_id",
    "fk_step_text_content_id",
    "fk_prompt_content_id",
}


def wrapped(error: sa_exc.DBAPIError, database: str) -> StorageError:
    """Return the error as one of docmill's types; an unclassified error becomes an UnexpectedDatabaseError.

    `database` is its URL for messages.
    """
    original = error.orig
    if isinstance(original, sqlite3.Error):
        code = getattr(original, "sqlite_errorname", "no code")
        return _sqlite(original, database) or _unexpected(original, database, code)
    known = _postgresql(original, error, database)
    return known or _unexpected(original, database, f"SQLSTATE {_state(original) or 'none'}")


def refuses_value(error: sa_exc.DBAPIError) -> bool:
    """Return True for the error of a value that the database cannot store."""
    return isinstance(wrapped(error, ""), ValueRefused)


def _unexpected(error: BaseException | None, database: str, code: str) -> StorageError:
    return UnexpectedDatabaseError(
        f"the database {database} answers with an error that docmill does not know: "
        f"{type(error).__name__} ({code}): {_first_line(error)}"
    )


def _postgresql(error: BaseException | None, outer: sa_exc.DBAPIError, database: str) -> StorageError | None:
    state = _state(error)
    if state in {"42501", "3F000"}:  # the latter: there is no schema in which this user may make a table
        return RightMissing(f"the user of the database {database} lacks a right: {_primary(error)}; {GRANTS_DOCS}")
    if state in {"42P01", "42703"}:
        return SchemaOutOfDate()
    if state == "25006":
        return DatabaseReadOnly(f"the database {database} takes no writes")
    if state == "23503" and _constraint(error) in _REFER_TO_WHAT_IS_REMOVED:
        return DatabaseBusy(f"something in the database {database} was removed while it was being referred to")
    if state[:2] in {"40", "53", "57", "55"} or state == _IDLE_FOR_TOO_LONG:
        return DatabaseBusy(f"the database {database} is busy: {_first_line(error)}")
    if state[:2] in {"22", "54"} or isinstance(outer, sa_exc.DataError):
        # Without PostgreSQL's own words, which quote the value.
        return ValueRefused(f"the database {database} cannot store a value: {type(error).__name__}")
    if _is_silence(error):
        return DatabaseSilent(f"cannot reach the database {database}: {_first_line(error)}")
    # For an option that a URL must not have the driver raises the error that a server raises for a statement.
    of_the_url = isinstance(outer, sa_exc.ProgrammingError) and not state and outer.statement is None
    if isinstance(outer, sa_exc.OperationalError) or of_the_url:
        return DatabaseUnreachable(f"cannot reach the database {database}: {_first_line(error)}")
    return None


def _is_silence(error: BaseException | None) -> bool:
    import psycopg  # whose error this is: it is loaded already

    return isinstance(error, psycopg.errors.ConnectionTimeout)


def _state(error: BaseException | None) -> str:
    return getattr(error, "sqlstate", None) or ""


def _sqlite(error: sqlite3.Error, database: str) -> StorageError | None:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return DatabaseBusy(f"the database {database} is locked by another writer")
    if code == sqlite3.SQLITE_FULL:
        return DatabaseBusy(f"the disk of the database {database} is full")
    if code == sqlite3.SQLITE_READONLY:
        return DatabaseReadOnly(f"the database {database} takes no writes")
    if code == sqlite3.SQLITE_ERROR and "no such" in str(error):  # a table or column; SQLite has no code for it
        return SchemaOutOfDate()
    if code == sqlite3.SQLITE_CANTOPEN:
        hint = "its folder has to be there, and this user to be able to write in it, even to read"
        return DatabaseUnreachable(f"cannot use the database {database}: {error}; {hint}")
    if code in _SQLITE_UNREACHABLE:
        return DatabaseUnreachable(f"cannot use the database {database}: {error}")
    if isinstance(error, sqlite3.DataError):  # a text or blob past SQLite's limit
        return ValueRefused(f"the database {database} cannot store a value: {error}")
    return None


def _constraint(error: Any) -> str | None:
    name: str | None = error.diag.constraint_name
    return name


def _primary(error: Any) -> str:
    """Return PostgreSQL's own message, which names the table or sequence. It has the server's language."""
    message: str | None = error.diag.message_primary
    return message or _first_line(error)


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
