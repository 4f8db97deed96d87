"""An encoder-only model on the preferred backend, until it has computed enough for a measurement to pay.

Measuring backends takes seconds, which a few texts never save. The rule solves the ski rental problem (Karlin et al.
1988, "Competitive snoopy caching"): measure after computing as many tokens as a measurement computes. For any number
of texts, this costs at most twice as much as the best choice in hindsight.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from docmill.tasks.backends import Backend, Source
from docmill.tasks.batching import Budget, Item
from docmill.tasks.outputs import Output
from docmill.tasks.windows.windows import Encoded

log = logging.getLogger("docmill.backends")

# About the tokens that a measurement of two backends computes on two cores: all batch sizes, then each backend three
# times with the best size.
ENOUGH_TOKENS = 32_768
_SIGN_OF_LIFE = Budget(tokens=1, rows=0)


class ProvisionalBackend:
    """Computes ``enough`` tokens with ``first``, and the rest with what ``measured`` opens.

    Both must encode texts alike. ``first`` is closed before the others are opened, since a model may fill the memory;
    it still encodes texts meanwhile. If the others cannot be opened, ``again`` opens the first one again.
    """

    def __init__(
        self,
        first: Backend,
        measured: Callable[[], Backend],
        again: Callable[[], Backend],
        *,
        enough: int = ENOUGH_TOKENS,
    ) -> None:
        self._backend = first
        self._measured = measured
        self._again = again
        self._left = enough
        self.traits = first.traits
        self.limit_tokens = first.limit_tokens

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._backend.encode(texts)

    def run(self, source: Source) -> Iterator[tuple[int, Output]]:
        if self._left > 0:
            counted = _Counted(source, self._left)
            yield from self._backend.run(counted)
            self._left = counted.left
            if self._left > 0:
                return
            source.take(_SIGN_OF_LIFE)
            self._change()
            source.take(_SIGN_OF_LIFE)
        yield from self._backend.run(source)

    def runtime(self) -> dict[str, Any]:
        return self._backend.runtime()

    def close(self) -> None:
        self._backend.close()

    def _change(self) -> None:
        self._backend.close()
        try:
            self._backend = self._measured()
        except Exception as error:  # whatever libraries raise; the first one did compute
            log.error("backends_not_measured error=%r", error)
            self._backend = self._again()


class _Counted:
    """A source that ends once windows of ``left`` tokens were taken."""

    def __init__(self, source: Source, left: int) -> None:
        self._source = source
        self.left = left

    def take(self, budget: Budget) -> Sequence[Item[Any]]:
        if self.left <= 0:
            return []
        items = self._source.take(budget)
        self.left -= sum(item.tokens for item in items)
        return items
