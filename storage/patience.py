"""How long a PostgreSQL server may be silent. One figure decides; the others follow from it."""

from __future__ import annotations

from dataclasses import dataclass

ANSWER_S = 8.0


@dataclass(frozen=True)
class Patience:
    """Bounds for a server, a network or a proxy that goes silent, in seconds.

    After `answer_s` without a byte the server is asked, over another connection, if it still works on the statement;
    connecting takes no longer either. With `bounded` the server itself ends a statement after `statement_s`, which is
    for statements that are short by nature.
    """

    answer_s: float = ANSWER_S
    bounded: bool = False

    @property
    def statement_s(self) -> float | None:
        return 4 * self.answer_s if self.bounded else None

    @property
    def silence_s(self) -> float | None:
        """The longest silence, whatever the server is found to do: it would have ended the statement before."""
        return 5 * self.answer_s if self.bounded else None

    @property
    def network_s(self) -> float:
        """How long the kernel waits for the acknowledgement of what was sent."""
        return 3 * self.answer_s

    @property
    def idle_s(self) -> float:
        """How long a transaction that writes may be idle before the server ends it and frees its locks."""
        return 3 * self.answer_s

    @property
    def recheck_s(self) -> float:
        """How long an answer that is on its way gets, once the server no longer works on the statement."""
        return self.answer_s / 4
