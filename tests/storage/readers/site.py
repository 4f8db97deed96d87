"""A real HTTP server for tests, and its faults."""

from __future__ import annotations

import re
import socket
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Site:
    """The files of a web server, and its faults."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    leads_to: dict[str, str] = field(default_factory=dict)
    version: tuple[str, str] = ("ETag", '"1"')  # a header of all answers
    ranges: bool = True
    sizes: bool = True
    endless: bool = False  # a part of a file goes on to the end of the file
    cut: float = 1.0  # the share of an answer that is sent
    status: int = 200
    pause: threading.Event | None = None  # between the halves of an answer, until it is set
    requests: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)  # as NAME:PASSWORD, "" for a request without one


def handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Log nothing."""

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            site.requests.append(f"{self.command} {self.headers.get('Range', '')}")
            site.logins.append(b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode())
            if path in site.leads_to:
                self.send_response(302)
                self.send_header("Location", site.leads_to[path])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            raw = site.files.get(path)
            if raw is None or site.status != 200:
                self.send_response(site.status if raw is not None else 404)
                self.end_headers()
                return
            span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if span and site.ranges:
                first, last = map(int, span.groups())
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{min(last, len(raw) - 1)}/{len(raw)}")
                raw = raw[first:] if site.endless else raw[first : last + 1]
            else:
                self.send_response(200)
            self.send_header(*site.version)
            if site.sizes:
                self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            if body:
                with suppress(ConnectionError):  # a client that has enough hangs up
                    if (pause := site.pause) is not None:
                        self.wfile.write(raw[: len(raw) // 2])
                        pause.wait()
                        raw = raw[len(raw) // 2 :]
                    self.wfile.write(raw[: int(len(raw) * site.cut)])
                    if site.cut < 1.0:  # closing at once could make the client lose what it has not read
                        self.connection.shutdown(socket.SHUT_WR)
                        self.connection.recv(1)  # until the client closes its side, too

    return Handler


@contextmanager
def serving() -> Iterator[Site]:
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(site))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        if site.pause is not None:
            site.pause.set()
        server.shutdown()
        thread.join()
        server.server_close()
