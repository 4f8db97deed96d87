"""The ticket for a submitted shard, with its outcomes as they finish."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from docmill.storage.core.outcomes import Outcome
from docmill.tasks.errors import ServerAway
from docmill.tasks.windows.windows import Encoded


class Submission:
    """The texts of one submit, and their outcomes as they come. Safe to use from any thread."""

    def __init__(
        self, content_ids: Sequence[int], on_drop: Callable[[Submission], None], traceparent: str | None = None
    ) -> None:
        self.traceparent = traceparent
        self._lock = threading.Lock()
        self._outcomes: list[Outcome | None] = [None] * len(content_ids)
        self._parts: dict[int, float] = {}
        self._left = len(content_ids)
        self._woken = threading.Event()
        self._on_drop = on_drop
        self.dropped = False
        self.away: ServerAway | None = None
        self._journaled: dict[int, list[Encoded]] = {}
        if not content_ids:
            self._woken.set()

    def wait(self, timeout: float | None = None) -> bool:
        """True when every text has its outcome, or no further one will come (drained, died, dropped)."""
        return self._woken.wait(timeout)

    def finished(self) -> list[Outcome]:
        """The outcomes there are, in the order of the texts."""
        with self._lock:
            return [outcome for outcome in self._outcomes if outcome is not None]

    @property
    def computed(self) -> float:
        """The texts that are computed; one whose windows are partly computed counts as that part of a text."""
        with self._lock:
            return len(self._outcomes) - self._left + sum(self._parts.values())

    @property
    def complete(self) -> bool:
        """True once every text has its outcome."""
        with self._lock:
            return self._left == 0

    def drop(self) -> None:
        """Give the rest up: its waiting windows leave the pool, and what is on the device is ignored."""
        self.dropped = True
        self._on_drop(self)
        self._woken.set()

    def advance(self, position: int, part: float) -> None:
        """For the engine: such a part of the windows of the text at ``position`` is computed."""
        with self._lock:
            if self._outcomes[position] is None:
                self._parts[position] = part

    def settle(self, position: int, outcome: Outcome) -> None:
        """For the engine: the text at ``position`` has its outcome."""
        with self._lock:
            if self._outcomes[position] is None:
                self._outcomes[position] = outcome
                self._left -= 1
                self._parts.pop(position, None)
            left = self._left
        if left == 0:
            self._woken.set()

    def journaled(self, content_id: int, window: Encoded) -> None:
        """For the engine: the backend keeps the output of this window until the outcome is stored."""
        with self._lock:
            self._journaled.setdefault(content_id, []).append(window)

    def take_journaled(self, content_ids: Iterable[int]) -> list[Encoded]:
        """For the engine: remove and return the windows of these texts whose outputs the backend keeps."""
        with self._lock:
            return [window for content_id in content_ids for window in self._journaled.pop(content_id, ())]

    def withdraw(self, error: ServerAway) -> None:
        """For the engine: no further outcome will come, since the model's server is away."""
        self.away = error
        self._woken.set()

    def wake(self) -> None:
        """For the engine: no further outcome will come."""
        self._woken.set()
