"""A TCP proxy that cuts, delays or swallows, and that can cut a connection around a COMMIT of PostgreSQL."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum

HOST = "127.0.0.1"
# psycopg sends COMMIT as a simple query: 'Q', the length, the text, a zero.
LONGEST_TRANSACTION_BYTES = 1_000_000
COMMIT = b"Q" + struct.pack("!i", 11) + b"COMMIT\x00"


class Cut(StrEnum):
    BEFORE = "just before the COMMIT reaches the server"
    AFTER = "just after the server carried the COMMIT out"


class Proxy:
    """Passes connections on to a port until told otherwise. `port` is its own, at the address `host`."""

    def __init__(self, upstream_port: int, host: str = HOST) -> None:
        self.upstream = upstream_port  # where new connections go
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self._links: list[Link] = []
        self._lock = threading.Lock()
        self._refuses = threading.Event()
        self.cuts = 0
        self._cut: tuple[Cut, bytes] | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._refuses.is_set():
                    reset(client)
                    continue
                try:
                    server = socket.create_connection((HOST, self.upstream))
                except OSError:
                    reset(client)
                    continue
                link = Link(self, client, server)
                with self._lock:
                    self._links.append(link)
                if self._refuses.is_set():  # it began between the two looks
                    link.cut()
                link.start()

    @property
    def connections(self) -> int:
        """The number of connections since the start or the last cut."""
        with self._lock:
            return len(self._links)

    def wait_open(self) -> None:
        self._open.wait()

    def blackhole(self) -> None:
        """Keep every socket open and forward nothing, as when a cable is pulled."""
        self._open.clear()

    def heal(self) -> None:
        """Forward again. Data that was sent meanwhile arrives late."""
        self._open.set()

    def lose_all(self) -> None:
        """Leave every connection half open: its data is swallowed. New connections work."""
        with self._lock:
            for link in self._links:
                link.lost = True

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Reset every connection, old and new, for the length of the block, as when a server is down."""
        self._refuses.set()
        self.cut_all()
        try:
            yield
        finally:
            self._refuses.clear()

    def cut_all(self) -> None:
        """Reset every connection."""
        with self._lock:
            links, self._links = self._links, []
        for link in links:
            link.cut()

    def cut_at_commit(self, when: Cut, having: bytes) -> None:
        """Cut the next connection that commits a transaction in which the client sent these bytes."""
        with self._lock:
            self._cut = (when, having)

    def due_cut(self, transaction: bytes) -> Cut | None:
        """Return the cut that is due for a transaction of these bytes, once."""
        with self._lock:
            if self._cut is None or self._cut[1] not in transaction:
                return None
            (when, _), self._cut = self._cut, None
            self.cuts += 1
            return when

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._open.set()
        self.cut_all()


class Link:
    """A client's connection and its counterpart to the server, a thread for each direction."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._sent = b""  # since the transaction began
        self._swallow_answer = False
        self.lost = False

    def start(self) -> None:
        threading.Thread(target=self._pump, args=(self._client, self._up), daemon=True).start()
        threading.Thread(target=self._pump, args=(self._server, self._down), daemon=True).start()

    def cut(self) -> None:
        reset(self._client)
        reset(self._server)

    def _pump(self, source: socket.socket, forward: Callable[[bytes], None]) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._proxy.wait_open()
                if self.lost:
                    continue
                forward(data)
        if not self.lost:  # else the end of a connection is swallowed as what it sends is
            self.cut()

    def _up(self, data: bytes) -> None:
        self._sent = (self._sent + data)[-LONGEST_TRANSACTION_BYTES:]
        if COMMIT in self._sent:
            when = self._proxy.due_cut(self._sent)
            self._sent = self._sent.rpartition(COMMIT)[2]
            if when is Cut.BEFORE:
                raise ConnectionAbortedError
            self._swallow_answer = when is Cut.AFTER
        self._server.sendall(data)

    def _down(self, data: bytes) -> None:
        if self._swallow_answer:
            raise ConnectionAbortedError
        self._client.sendall(data)


def reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN, so that data on its way is lost."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RD)  # wakes whoever reads from it, and sends nothing
    connection.close()
