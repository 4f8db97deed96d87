"""The cache of models withdraws a model whose server is away."""

from __future__ import annotations

import threading

from docmill.tasks.engine.device import ModelCache
from docmill.tasks.engine.tickets import Ticket
from docmill.tasks.errors import ServerAway
from tests.tasks.fakes import FakeBackend, spec_of
from tests.worker.harness import until

WAIT_S = 20


def test_a_model_whose_server_is_away_leaves_while_another_waits_for_its_room() -> None:
    away, waiting_backend = FakeBackend(), FakeBackend()
    cache = ModelCache(lambda spec: away if spec.model == "away" else waiting_backend, bound=1)
    ticket = Ticket([1], lambda _: None)

    def open_other() -> None:
        with cache.hold(spec_of("other")):
            pass

    def withdraw() -> None:
        cache.withdraw(loaded, ServerAway("no answer"))

    with cache.hold(spec_of("away")) as loaded:
        loaded.tickets.add(ticket)
        opening = threading.Thread(target=open_other, daemon=True)
        opening.start()
        until(cache._opening.locked, "the other model waits for room")
        leaving = threading.Thread(target=withdraw, daemon=True)
        leaving.start()
        assert ticket.wait(WAIT_S)
        assert ticket.away is not None
        for thread in (leaving, opening):
            thread.join(WAIT_S)
            assert not thread.is_alive()
    assert away.closed.is_set()
    assert [loaded.backend for loaded in cache] == [waiting_backend]
