"""Clients that hold connections open and send half a request, or nothing."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from docmill.storage.core.database import Database
from docmill.worker.errors import WorkerError
from docmill.worker.settings import Settings
from docmill.worker.web import http_server, server
from docmill.worker.web.http_server import serve
from docmill.worker.web.server import make_app
from docmill.worker.web.site import Site

HALF = b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nX-More: "
LONGEST_S = 60.0  # for a condition that holds at once but for a busy machine


def connect(url: str, data: bytes) -> socket.socket:
    at = urlsplit(url)
    assert at.hostname
    assert at.port
    connection = socket.create_connection((at.hostname, at.port), LONGEST_S)
    connection.sendall(data)
    return connection


def is_ended(connection: socket.socket) -> bool:
    """Wait until the server ends a connection. The socket's timeout fails the test if it does not."""
    try:
        while connection.recv(4_096):
            pass
    except ConnectionResetError:
        pass
    return True


def status(url: str) -> int:
    with urlopen(f"{url}/jobs", timeout=LONGEST_S) as answer:
        return int(answer.status)


@pytest.mark.parametrize("data", [b"", HALF])
def test_half_sent_requests_keep_nobody_out_and_the_oldest_are_ended(
    url: str, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "MOST_CONNECTIONS", 8)
    with ExitStack() as stack:
        held = [stack.enter_context(connect(url, data)) for _ in range(20)]
        assert status(url) == 200
        assert all(is_ended(connection) for connection in held[:12])


def test_a_request_whose_head_is_late_is_ended(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "LONGEST_HEAD_S", 0.05)
    with connect(url, HALF) as first, connect(url, b"") as second:
        assert is_ended(first)
        assert is_ended(second)


def test_a_second_request_on_a_connection_that_is_late_is_ended(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(url, health) as connection:
        assert connection.recv(4_096)
        monkeypatch.setattr(http_server, "LONGEST_HEAD_S", 0.05)
        with suppress(ConnectionError):  # on a busy machine it may be late already
            connection.sendall(health)
            assert connection.recv(4_096)
            connection.sendall(HALF)
        assert is_ended(connection)


def test_a_form_that_is_late_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LONGEST_FORM_S", 0.05)
    head = b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
    with connect(url, head + b"Content-Type: application/x-www-form-urlencoded\r\n\r\ntok") as connection:
        assert connection.recv(4_096).startswith(b"HTTP/1.1 408")


def test_a_client_cannot_write_to_the_log(
    sqlite: Database, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    form = b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\n"
    with serve(make_app(Site(sqlite, settings)), "127.0.0.1", 0) as url:
        with connect(url, b"no HTTP\r\n\r\n") as connection:
            assert connection.recv(4_096).startswith(b"HTTP/1.1 400")
        connect(url, form + b"Content-Length: 9\r\n\r\ntok").close()
        chunked = form + b"Transfer-Encoding: chunked\r\n\r\n"
        with connect(url, chunked) as connection:
            assert connection.recv(4_096).startswith(b"HTTP/1.1 413")
            connection.sendall(b"no length\r\n")
            assert is_ended(connection)
        with connect(url, chunked + b"no length\r\n") as connection:
            assert is_ended(connection)
    assert not caplog.records


@pytest.mark.parametrize("host", ["127.0.0.1", "999.1.1.1", "foo..bar"])
def test_a_taken_port_and_a_host_without_an_address_are_refused(
    host: str, sqlite: Database, settings: Settings
) -> None:
    site = Site(sqlite, settings)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        refusal = pytest.raises(WorkerError, match=f"docmill cannot serve on {host} port {port}: .*--port 0 is any")
        with refusal, serve(make_app(site), host, port):
            pass
