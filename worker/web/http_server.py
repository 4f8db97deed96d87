"""An HTTP server on a thread, which slow clients cannot keep busy."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from starlette.types import ASGIApp
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from docmill.worker.errors import WorkerError

LONGEST_STOP_S = 3.0  # until requests under way are cut off
POLL_S = 0.01
MOST_CONNECTIONS = 200
BACKLOG = 64  # connections that are accepted at once, above the limit
LONGEST_HEAD_S = 10.0


@contextmanager
def serve(app: ASGIApp, host: str, port: int) -> Iterator[str]:
    """Serve an application for the length of the block. Yield its URL. Port 0 is any free one.

    It logs no request, since an address may name documents. Raises WorkerError if it cannot serve on the address.
    """
    listening = _listen(host, port)
    config = Config(
        app,
        http=_Connection,
        lifespan="off",
        ws="none",
        backlog=BACKLOG,
        log_config=None,
        log_level=logging.ERROR,  # a warning is about a client's mistake, and clients could fill the log
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(LONGEST_STOP_S),
    )
    server = Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])), name="web", daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(POLL_S)
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


class _Connection(H11Protocol):
    """A connection that ends if its next request is late, or if it has waited longest among too many.

    uvicorn does not limit the time of a request's head. Its `limit_concurrency` also counts connections that wait, so
    clients that send nothing would keep all others out.
    """

    _since = 0.0  # when it began to wait for its next request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()
        open_connections = (connection for connection in self.connections if isinstance(connection, _Connection))
        held = [connection for connection in open_connections if not connection.transport.is_closing()]
        if len(held) > MOST_CONNECTIONS:
            waiting = (connection for connection in held if connection.waits)
            min(waiting, key=lambda connection: connection._since).transport.abort()

    @property
    def waits(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def on_response_complete(self) -> None:
        self._wait()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer a client that does not speak HTTP. After a request, just end: an answer may have begun."""
        if self.cycle is None:
            super().send_400_response(msg)  # type: ignore[unreachable]
        else:
            self.cycle.disconnected = True
            self.transport.abort()

    def _wait(self) -> None:
        self._since = self.loop.time()
        self.loop.call_later(LONGEST_HEAD_S, self._end_if_late, self._since)

    def _end_if_late(self, since: float) -> None:
        if self.waits and self._since == since:
            self.transport.abort()


def _listen(host: str, port: int) -> socket.socket:
    try:
        with ExitStack() as unless_listening:
            (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            listening = unless_listening.enter_context(socket.socket(family, kind, protocol))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
            unless_listening.pop_all()
            return listening
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "this is not a valid host name"
        raise WorkerError(
            f"docmill cannot serve on {host} port {port}: {reason}. Choose another address with --host and --port; "
            "--port 0 is any free port"
        ) from error
