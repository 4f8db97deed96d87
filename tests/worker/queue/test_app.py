"""A worker of one job ends soon after it, since it asks for messages often."""

from __future__ import annotations

from contextlib import closing

from docmill.worker.queue.broker import CONFIG, Broker


def test_the_time_for_which_a_request_for_messages_waits_is_the_brokers() -> None:
    with closing(Broker("redis://127.0.0.1:1")) as broker, broker.app.connection() as usual:
        assert usual.transport.brpop_timeout == 1
    with closing(Broker("redis://127.0.0.1:1", 0.1)) as broker, broker.app.connection() as often:
        assert often.transport.brpop_timeout == 0.1
        assert CONFIG["broker_transport_options"].items() <= often.transport_options.items()
