"""The windows of a spec on their way to a server and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from docmill.tasks.backends import Source
from docmill.tasks.backends.remote.client import Client, Dropped
from docmill.tasks.backends.remote.journal import Journal
from docmill.tasks.batching import Budget, Item
from docmill.tasks.errors import EngineStopped
from docmill.tasks.outputs import Failure, Output

Items = Sequence[Item[Any]]
_ANY = 1 << 30
# Seconds to wait for an answer before asking the source again: with room for more requests, and without.
_LOOK_S, _FULL_S = 0.05, 1.0


class Flight:
    """Sends windows by a client, at most ``most`` in a request, and takes the answers.

    ``begin`` sends a request for some windows under a number. Its answer has the output of each window, in order.
    Windows with an answer in the journal are not sent.
    """

    def __init__(self, client: Client, journal: Journal, begin: Callable[[int, Items], None], most: int = 1) -> None:
        self._client = client
        self._journal = journal
        self._begin = begin
        self._most = most
        self._under_way: dict[int, Items] = {}

    def run(self, source: Source) -> Iterator[tuple[int, Output]]:
        """Yield the outputs of the source's windows until it has no more.

        Raises ServerAway, and EngineStopped if windows were dropped since the client is to end.
        """
        dropped = False
        while True:
            room = max(0, self._client.room - len(self._under_way))
            taken = source.take(Budget(tokens=_ANY, rows=room * self._most, spread=_ANY, packed=True))
            known = self._journal.find([item.encoded for item in taken])
            items = [item for item, output in zip(taken, known, strict=True) if output is None]
            for start in range(0, len(items), self._most):
                self._send(items[start : start + self._most])
            for item, output in zip(taken, known, strict=True):
                if output is not None:
                    yield item.id, output
            if not self._under_way:
                if taken:
                    continue
                if dropped:
                    raise EngineStopped
                return
            for number, outputs in self._client.finished(_LOOK_S if room else _FULL_S):
                asked = self._under_way.pop(number, None)
                if isinstance(outputs, Dropped):
                    dropped = True
                elif asked is not None:  # else of a flight that was broken off
                    yield from self._settled(asked, outputs)

    def _send(self, items: Items) -> None:
        number = next(self._client.numbers)
        self._under_way[number] = items
        self._begin(number, items)

    def _settled(self, items: Items, outputs: Sequence[Output] | Failure) -> Iterator[tuple[int, Output]]:
        """Yield the outputs of a request's windows. If the request failed, send its windows one by one."""
        if not isinstance(outputs, Failure):
            yield from zip((item.id for item in items), outputs, strict=True)
        elif len(items) == 1:
            yield items[0].id, outputs
        else:
            for item in items:
                self._send([item])
