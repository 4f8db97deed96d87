"""The schemes of a PostgreSQL server's URLs, and time limits for a silent server. It loads no driver."""

from __future__ import annotations

from dataclasses import dataclass

# Including the schemes of hosting companies and other libraries. The driver is always psycopg.
POSTGRESQL = frozenset(
    {"postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg", "postgresql+pg8000"}
)
ANSWER_S = 8.0  # the other limits derive from it


@dataclass(frozen=True)
class Patience:
    """Bounds for a server, a network or a proxy that goes silent, in seconds.

    After `answer_s` without a byte, the server is asked over another connection if it still works on the statement.
    Connecting takes no longer than that, either. `bounded` is for statements that are short by nature: the server
    ends them after `statement_s`.
    """

    answer_s: float = ANSWER_S
    bounded: bool = False

    @property
    def statement_s(self) -> float | None:
        return 4 * self.answer_s if self.bounded else None

    @property
    def silence_s(self) -> float | None:
        """The longest silence in any state of the server, which would have ended the statement earlier."""
        return 5 * self.answer_s if self.bounded else None

    @property
    def network_s(self) -> float:
        """The time for which the kernel waits until sent data are acknowledged."""
        return 3 * self.answer_s

    @property
    def idle_s(self) -> float:
        """The time after which the server ends an idle transaction that writes, and frees its locks."""
        return 3 * self.answer_s

    @property
    def recheck_s(self) -> float:
        """The time that an answer has to arrive once the server no longer works on the statement."""
        return self.answer_s / 4
