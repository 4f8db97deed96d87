"""A journal of a server's answers in a local file, so that a killed process loses no answer.

An answer stays until its outcome is in the store. Its key is a hash of the spec and of the model's input.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson

from docmill.storage.core.private_files import make_file
from docmill.storage.core.specs import Reason, Spec
from docmill.tasks.outputs import Failure, Generated, Likelihood, Output, Several, Vector
from docmill.tasks.windows.windows import Encoded

T = TypeVar("T", bound=Sequence[Output])

log = logging.getLogger("docmill.journal")

KEPT_S = 7 * 86_400.0
# The most answers in the file. Shards in flight have some thousands; killed processes left the rest.
MOST = 200_000
_FORM = b"1"  # of keys and answers
_DIGEST_BYTES = 8
_BUSY_S = 1.0
_SCHEMA = "CREATE TABLE IF NOT EXISTS answer (key TEXT PRIMARY KEY, at REAL NOT NULL, answer BLOB NOT NULL)"
_FIND = "SELECT key, answer FROM answer WHERE key IN (SELECT value FROM json_each(?))"
_TRIM = "DELETE FROM answer WHERE at < ? OR rowid <= (SELECT max(rowid) FROM answer) - ?"


class Journal:
    """The answers under one spec. All processes of a machine share the file. Safe to use from any thread.

    Without a ``file``, or if the file cannot be written, the journal keeps nothing.
    """

    def __init__(self, file: Path | None, spec: Spec, clock: Callable[[], float] = time.time) -> None:
        self._spec = spec.sha256
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        if file is not None:
            self._begin(file)

    def find(self, windows: Sequence[Encoded]) -> list[Output | None]:
        """Return the output of each window; None for a window without an answer."""
        if self._connection is None or not windows:
            return [None] * len(windows)
        keys = [*map(self._key, windows)]
        wanted = orjson.dumps(keys).decode()
        rows = self._do(lambda connection: connection.execute(_FIND, (wanted,)).fetchall())
        outputs = {key: _unpack(answer) for key, answer in rows or ()}
        return [outputs.get(key) for key in keys]

    def keep(self, windows: Sequence[Encoded], outputs: Sequence[Output]) -> None:
        """Write the outputs of windows. They survive the end of this process, but not a crash of the machine."""
        if self._connection is None:
            return
        now = self._clock()
        rows = [
            (self._key(window), now, packed)
            for window, output in zip(windows, outputs, strict=True)
            if (packed := _pack(output)) is not None
        ]
        self._do(lambda connection: _execute(connection, "INSERT OR REPLACE INTO answer VALUES (?, ?, ?)", rows))

    def keep_when_read(self, windows: Sequence[Encoded], read: Callable[[Any], T]) -> Callable[[Any], T]:
        """Return a function that calls ``read`` for the outputs in an answer, and keeps them for these windows."""

        def read_and_keep(answer: Any) -> T:
            outputs = read(answer)
            self.keep(windows, outputs)
            return outputs

        return read_and_keep

    def forget(self, windows: Sequence[Encoded]) -> None:
        """Remove the answers for windows whose outcomes are stored."""
        keys = [(self._key(window),) for window in windows]
        self._do(lambda connection: _execute(connection, "DELETE FROM answer WHERE key = ?", keys))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _key(self, window: Encoded) -> str:
        return hashlib.sha256(_FORM + self._spec + str(window.features).encode()).hexdigest()

    def _begin(self, file: Path) -> None:
        try:
            try:
                self._connection = _open(file)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:  # damaged, as after a crash of the machine
                for damaged in (file, *(file.with_name(file.name + end) for end in ("-wal", "-shm"))):
                    damaged.unlink(missing_ok=True)
                self._connection = _open(file)
        except (sqlite3.Error, OSError) as error:
            _give_up(error)
            return
        self._do(lambda connection: connection.execute(_TRIM, (self._clock() - KEPT_S, MOST)))

    def _do(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """Return the result of work on the file. After an error, close the file for good."""
        with self._lock:
            if self._connection is None:
                return None
            try:
                return work(self._connection)
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                    return None
                _give_up(error)
                with suppress(sqlite3.Error):
                    self._connection.close()
                self._connection = None
                return None


def empty(file: Path) -> bool:
    """Delete all answers in a file, with their bytes in it and its WAL. Return False if the file is in use.

    A killed run must then ask the server again.
    """
    if not file.exists():
        return True
    with suppress(sqlite3.Error), closing(_open(file)) as connection:
        connection.execute("DELETE FROM answer")
        is_busy: int = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        return not is_busy
    return False


def _execute(connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Execute a statement for each row in a transaction. One row needs one call: each lets other threads run."""
    if len(rows) == 1:
        connection.execute(statement, rows[0])
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany(statement, rows)
    finally:
        connection.execute("COMMIT")


def _open(file: Path) -> sqlite3.Connection:
    make_file(file)
    connection = sqlite3.connect(file, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        # Against a killed process, the cache of the operating system is enough.
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute(_SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


def _give_up(error: Exception) -> None:
    log.warning("journal_off error=%s", error)


def _pack(output: Output) -> bytes | None:
    """Return an output as JSON after its digest; None for a text with half a character, which JSON cannot hold."""
    try:
        raw = orjson.dumps([type(output).__name__, output], option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:
        return None
    return _digest(raw) + raw


def _unpack(packed: bytes) -> Output | None:
    """Return an output; None if it is damaged."""
    raw = packed[_DIGEST_BYTES:]
    if _digest(raw) != packed[:_DIGEST_BYTES]:
        return None
    name, fields = orjson.loads(raw)
    return _READERS[name](fields)


def _digest(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=_DIGEST_BYTES).digest()


def _read_vector(fields: Mapping[str, Any]) -> Vector:
    return Vector(np.asarray(fields["values"], dtype=np.float32), fields["read_tokens"])


def _read_generated(fields: Mapping[str, Any]) -> Generated:
    likelihood = fields["likelihood"]
    return Generated(**{**fields, "likelihood": None if likelihood is None else Likelihood(**likelihood)})


def _read_several(fields: Mapping[str, Any]) -> Several:
    return Several(tuple(map(_read_generated, fields["outputs"])))


def _read_failure(fields: Mapping[str, Any]) -> Failure:
    return Failure(fields["reason"], Reason(fields["reason_class"]))


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Output]] = {
    Vector.__name__: _read_vector,
    Generated.__name__: _read_generated,
    Several.__name__: _read_several,
    Failure.__name__: _read_failure,
}
