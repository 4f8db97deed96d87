"""Serve the pages over HTTP, on a thread."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker.errors import WebNotServed

if TYPE_CHECKING:
    from worker.web.site import Site

LONGEST_STOP_S = 3.0  # until requests under way are cut off
POLL_S = 0.01


@contextmanager
def serving(site: Site, host: str, port: int) -> Iterator[str]:
    """Serve a site for the length of the block. Yield its URL. Port 0 is any free one.

    Nothing is logged of a request: its address may name documents. Raises WebNotServed, if the address cannot be had.
    """
    from uvicorn import Config, Server

    from worker.web.app import make_app

    listening = _listen(host, port)
    config = Config(
        make_app(site),
        lifespan="off",
        ws="none",
        log_config=None,
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


def _listen(host: str, port: int) -> socket.socket:
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _not_served(host, port, error) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise _not_served(host, port, error) from error
    return listening


def _not_served(host: str, port: int, error: OSError) -> WebNotServed:
    return WebNotServed(
        f"The page cannot be served on {host} port {port}: {error.strerror}. Name another with --host and --port; "
        "--port 0 is any free one"
    )
