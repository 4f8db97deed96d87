"""Serve the web page beside a command, or on its own."""

from __future__ import annotations

import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from docmill.worker.cli.context import open_store
from docmill.worker.cli.printing import say

if TYPE_CHECKING:
    from docmill.worker.settings import Settings

LOOPBACK = "127.0.0.1"


@contextmanager
def page_beside(settings: Settings, wanted: bool) -> Iterator[None]:
    """Serve the store's page on a free port for the length of the block, if it is wanted, and open a browser on it.

    In a terminal the page stays after the block until Ctrl-C.
    """
    if not wanted:
        yield
        return
    from docmill.worker.settings import has_display
    from docmill.worker.web.server import serving
    from docmill.worker.web.site import Site

    is_watched = sys.stderr.isatty()
    with (
        open_store(settings) as database,
        serving(Site(database, settings, token=settings.web_token), LOOPBACK, 0) as url,
    ):
        say(f"Web page: {url}")
        if is_watched and has_display():
            webbrowser.open(url)
        yield
        if is_watched:
            say(f"The web page stays at {url} until Ctrl-C.")
            until_interrupted()


def until_interrupted() -> None:
    """Wait for Ctrl-C."""
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return
