"""A text in the engine, from submit to outcome, and the ticket for the texts of one submit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from docmill.storage.core.specs import Outcome, Reason, Status
from docmill.storage.errors import raised_at
from docmill.tasks.checks import NONE, Checks, doubt_confidence, written
from docmill.tasks.errors import PromptTooLong, ServerAway
from docmill.tasks.kinds.base import Again, Computed, Recipe
from docmill.tasks.outputs import Failure, Generated, Output, Several, Vector
from docmill.tasks.windows.windows import Coder, Encoded, Window


@dataclass(slots=True)
class TicketText:
    """One text of a ticket. The device thread owns it when its windows wait.

    ``text`` is the text of the current round, ``source_text`` that of the first round.
    """

    ticket: Ticket
    position: int
    content_id: int
    source_text: str
    text: str = ""
    windows: Sequence[Window] = ()
    outputs: list[Output | None] = field(default_factory=list)
    left: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    flags: tuple[str, ...] = ()

    def begin(self, text: str, windows: Sequence[Window]) -> list[tuple[int, Encoded]]:
        """Start a round. Return the windows to compute, each with its index."""
        self.text, self.windows = text, windows
        self.outputs = [None] * len(windows)
        wanted = [(index, window.encoded) for index, window in enumerate(windows) if window.encoded is not None]
        self.left = len(wanted)
        return wanted

    def receive(self, index: int, encoded: Encoded, output: Output) -> bool:
        """Keep a window's output. Return True if it was the last one."""
        assert self.outputs[index] is None
        self.outputs[index] = output
        self.left -= 1
        counted = output.read_tokens if isinstance(output, Generated | Several | Vector) else None
        self.tokens_in += encoded.tokens if counted is None else counted
        if isinstance(output, Generated | Several):
            self.tokens_out += output.tokens
        return self.left == 0

    @property
    def computed(self) -> float:
        """The share of the round's windows that are computed or copied."""
        return 1 - self.left / len(self.windows)

    @property
    def _round(self) -> Computed:
        return Computed(self.content_id, self.text, self.windows, self.outputs, self.tokens_in, self.tokens_out)

    def failed(self, reason: str, reason_class: Reason) -> Outcome:
        return self._round.failed(reason, reason_class, self.flags)

    def uncut(self, error: Exception) -> Outcome:
        """Return the outcome of a text that could not be cut."""
        cutting = f"Cutting the text raised {type(error).__name__}."
        return self.failed(str(error) if isinstance(error, PromptTooLong) else cutting, Reason.DOCUMENT)

    def skipped(self) -> Outcome:
        return Outcome(self.content_id, Status.SKIPPED, reason="The text is blank.")

    def finish(self, recipe: Recipe, checks: Checks = NONE) -> Outcome | Again:
        """Return the outcome of the text with the flags of its checks, or the next round. Never raises."""
        for number, output in enumerate(self.outputs):
            if isinstance(output, Failure):
                where = f" (window {number + 1} of {len(self.outputs)})" if len(self.outputs) > 1 else ""
                return self.failed(output.reason + where, output.reason_class)
        try:
            joined: object = recipe.join(self._round)
        except Exception as error:
            return self.failed(f"Joining the windows raised {raised_at(error)}.", Reason.DOCUMENT)
        if isinstance(joined, Again):
            self.flags = _union(self.flags, joined.flags)
            return joined
        if not isinstance(joined, Outcome):
            return self.failed(f"The recipe returned {type(joined).__name__}, not an Outcome.", Reason.MODEL)
        flags = _union(self.flags, joined.flags)
        flags = _union(flags, _find_flags(checks, self.source_text, joined, flags))
        return joined if flags == joined.flags else replace(joined, flags=flags)


def _find_flags(checks: Checks, source_text: str, outcome: Outcome, flags: Sequence[str]) -> tuple[str, ...]:
    """Return the flags that the checks raise on an outcome's texts and on its confidence."""
    if outcome.status is not Status.DONE:
        return ()
    raised = [finding.flag for text in written(outcome) for finding in checks.findings(source_text, text, flags)]
    unsure = doubt_confidence(outcome.confidence, checks.least_confidence)
    return (*raised, unsure.flag) if unsure else tuple(raised)


def _union(flags: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*flags, *other))) if flags or other else ()


def cut_each(recipe: Recipe, coder: Coder, texts: Sequence[str]) -> list[list[Window] | Exception]:
    """Return the windows of each text, or the error of cutting it. A bad text does not fail the others."""
    if not texts:
        return []
    try:
        return list(recipe.cut(texts, coder))
    except Exception as error:
        if len(texts) == 1:
            return [error]
        return [result for text in texts for result in cut_each(recipe, coder, [text])]


class Ticket:
    """The texts of one submit, and their outcomes as they come. Safe to use from any thread."""

    def __init__(
        self, content_ids: Sequence[int], on_drop: Callable[[Ticket], None], traceparent: str | None = None
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
        """Wait until every text has its outcome, or no other outcome will come. Return False after the timeout."""
        return self._woken.wait(timeout)

    def finished(self) -> list[Outcome]:
        """Return the outcomes so far, in the order of the texts."""
        with self._lock:
            return [outcome for outcome in self._outcomes if outcome is not None]

    @property
    def computed(self) -> float:
        """The number of computed texts. A partly computed text counts as a fraction."""
        with self._lock:
            return len(self._outcomes) - self._left + sum(self._parts.values())

    @property
    def complete(self) -> bool:
        """True if every text has its outcome."""
        with self._lock:
            return self._left == 0

    def drop(self) -> None:
        """Give up the texts without an outcome: waiting windows leave the pool, later outputs are ignored."""
        self.dropped = True
        self._on_drop(self)
        self._woken.set()

    def advance(self, position: int, part: float) -> None:
        """Note the computed share of a text's windows. The engine calls this."""
        with self._lock:
            if self._outcomes[position] is None:
                self._parts[position] = part

    def settle(self, position: int, outcome: Outcome) -> None:
        """Note the outcome of a text. The engine calls this."""
        with self._lock:
            if self._outcomes[position] is None:
                self._outcomes[position] = outcome
                self._left -= 1
                self._parts.pop(position, None)
            if self._left == 0:
                self._woken.set()

    def note_journaled(self, content_id: int, window: Encoded) -> None:
        """Note that the backend keeps a window's output until the outcome is stored. The engine calls this."""
        with self._lock:
            self._journaled.setdefault(content_id, []).append(window)

    def take_journaled(self, content_ids: Iterable[int]) -> list[Encoded]:
        """Remove and return the windows of these texts whose outputs the backend keeps. The engine calls this."""
        with self._lock:
            return [window for content_id in content_ids for window in self._journaled.pop(content_id, ())]

    def wake(self, away: ServerAway | None = None) -> None:
        """Wake the waiters: the model's server is ``away``, or the engine stops. The engine calls this."""
        self.away = self.away or away
        self._woken.set()
