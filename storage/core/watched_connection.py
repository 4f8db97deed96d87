"""A connection to PostgreSQL that notices when it is half open.

The kernel notices a network that is gone. It notices nothing where a proxy or a firewall keeps the connection up and
forwards nothing: then each side waits for the other for ever. A long silence alone proves nothing, since an index may
take an hour to build. So whoever waits for long asks the server over another connection.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from enum import Enum
from typing import Any

import psycopg
from psycopg.errors import ConnectionTimeout

from docmill.storage.core.server import Patience

_BUSY = {"active", "fastpath function call"}
_OF_A_PROCESS = "SELECT state, wait_event_type FROM pg_stat_activity WHERE pid = %s"


class ConnectionLost(psycopg.OperationalError):
    """The server is not working on this connection's statement: the request or the answer was lost."""


class Verdict(Enum):
    WORKS = "the server works on the statement"
    LOST = "the server does not work on the statement"
    UNKNOWN = "the server cannot be asked"


class WatchedConnection(psycopg.Connection[Any]):
    """A connection that asks after its statement once the server has been silent; without `patience` it never does.

    `how` has the arguments to make another one. `server_pid` is the server process that carries out our transaction,
    which a pooler chooses anew each time; None outside of a transaction. `watched` is False where that process cannot
    be known: then only the kernel watches.
    """

    patience: Patience | None = None
    how: tuple[Any, dict[str, Any]] = ((), {})
    server_pid: int | None = None
    watched = True

    def begin(self, statements: str) -> None:
        """Begin a transaction. The last of the statements selects the server process."""
        self.server_pid = None
        with self.cursor() as cursor:
            cursor.execute(statements)
            while cursor.nextset():
                pass
            [self.server_pid] = cursor.fetchall()[0]

    def commit(self) -> None:
        try:
            super().commit()
        finally:
            self.server_pid = None

    def rollback(self) -> None:
        try:
            super().rollback()
        finally:
            self.server_pid = None

    def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        """Wait as the driver does. Raises ConnectionLost, and ConnectionTimeout from a server that is silent."""
        if self.patience is None or not self.watched:
            return super().wait(gen, *arguments, **options)
        return super().wait(self._watch(gen, self.patience), *arguments, **options)

    def _watch(self, gen: Any, patience: Patience) -> Generator[Any, Any, Any]:
        """Pass values between the driver's protocol and its wait, and act after a time without any."""
        heard = time.monotonic()
        look_at, was_lost = heard + patience.answer_s, False
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                now = time.monotonic()
                if ready:
                    heard, was_lost = now, False
                    look_at = now + patience.answer_s
                elif now >= look_at:
                    was_lost = self._look(patience, now - heard, was_lost=was_lost)
                    look_at = time.monotonic() + (patience.recheck_s if was_lost else patience.answer_s)
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value

    def _look(self, patience: Patience, silent_s: float, *, was_lost: bool) -> bool:
        """Ask the server about our statement: True if it is lost, as far as one answer tells. Raises when it is."""
        try:
            verdict = self._ask(patience)
        except ConnectionTimeout as error:
            self.close()
            raise ConnectionTimeout(
                f"the server has been silent for {silent_s:.0f} s, and a new connection is not answered either"
            ) from error
        too_long = patience.silence_s is not None and silent_s >= patience.silence_s
        if too_long or (verdict is Verdict.LOST and was_lost):
            self.close()
            raise ConnectionLost(f"the connection has been silent for {silent_s:.0f} s: {verdict.value}")
        return verdict is Verdict.LOST

    def _ask(self, patience: Patience) -> Verdict:
        """Ask about our statement over a connection of its own. Raises ConnectionTimeout when none can be made."""
        arguments, options = self.how
        try:
            with _AskingConnection.connect(*arguments, **options) as other:
                other.patience = patience
                if self.server_pid is None:  # nothing takes long outside of a transaction
                    other.execute("SELECT 1")
                    return Verdict.LOST
                process = other.execute(_OF_A_PROCESS, (self.server_pid,)).fetchone()
        except ConnectionTimeout:
            raise
        except psycopg.Error:  # it answers, if only that it takes no more connections
            return Verdict.UNKNOWN
        return judged(process)


class _AskingConnection(WatchedConnection):
    """A connection that only asks: it gives up when it is not answered."""

    def _look(self, patience: Patience, silent_s: float, *, was_lost: bool) -> bool:
        self.close()
        raise ConnectionLost(f"the server has been silent for {silent_s:.0f} s")


def judged(row: tuple[str | None, str | None] | None) -> Verdict:
    """Return what a server process's row in `pg_stat_activity`, (state, wait_event_type), says of our statement."""
    if row is None:
        return Verdict.LOST
    state, waits_for = row
    if state is None or state == "disabled":  # another role's process, or a server that keeps no such statistics
        return Verdict.UNKNOWN
    # A process that waits for its client has either sent the answer or not got all of the request.
    return Verdict.WORKS if state in _BUSY and waits_for != "Client" else Verdict.LOST
