"""`docmill web`: show jobs and results in a browser."""

from __future__ import annotations

import secrets
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from docmill.worker.cli.options import whole_number
from docmill.worker.cli.printing import say
from docmill.worker.settings import has_display, load_settings
from docmill.worker.terminal import warn

if TYPE_CHECKING:
    from docmill.worker.settings import Settings


LOOPBACK, PORT = "127.0.0.1", 8321


@click.command("web", epilog="Example: docmill web --port 8321")
@click.option("--host", default=LOOPBACK, show_default=True, help="Address to serve on; 0.0.0.0 for all.")
@click.option("--port", type=whole_number(0, 65535), default=PORT, show_default=True, help="Port; 0 for any free.")
@click.option(
    "--host-name", "names", multiple=True, metavar="NAME", help="Host name that a proxy uses for it; repeatable."
)
@click.option("--allow-changes", is_flag=True, help="Let the page operate jobs, and run pipelines.")
def web_command(host: str, port: int, names: tuple[str, ...], allow_changes: bool) -> None:
    """Show jobs and results in a browser, until Ctrl-C.

    The page reads the database, so it is right even if every worker is dead. It changes nothing without
    --allow-changes. It shows texts of documents.

    On the loopback address, only people on this machine can open it. On another address, or with --host-name, it
    asks for a token: DOCMILL_WEB_TOKEN, or a new token that docmill prints once. It speaks HTTP; use a proxy for
    TLS.
    """
    settings = load_settings()
    with _serving(settings, host, port, names, allow_changes=allow_changes) as (url, token):
        (say if port else warn)(f"Web page: {url} (Ctrl-C ends it)")
        if token is not None:
            warn(f"Token: {token}")  # also with --quiet: it is shown nowhere else
        until_interrupted()


@contextmanager
def _serving(
    settings: Settings, host: str, port: int, names: tuple[str, ...] = (), *, allow_changes: bool = False
) -> Iterator[tuple[str, str | None]]:
    """Serve the store's page for the length of the block. Yield its URL, and its token if that is a new one."""
    from docmill.worker.extras import EXTRAS

    EXTRAS["web"].require("The web page")
    from docmill.worker.stores import open_store
    from docmill.worker.web.http_server import serve
    from docmill.worker.web.server import make_app
    from docmill.worker.web.site import Site, allowed_hosts

    token, is_new = choose_token(settings, host, names)
    with open_store(settings) as database:
        site = Site(database, settings, allow_changes, token, allowed_hosts(host, names))
        with serve(make_app(site), host, port) as url:
            yield url, token if is_new else None


def choose_token(settings: Settings, host: str, names: tuple[str, ...]) -> tuple[str | None, bool]:
    """Return the token of a page, None if it needs none, and True for a new one, which has to be printed."""
    from docmill.worker.web.site import is_loopback

    if settings.web_token is not None:
        return settings.web_token, False
    return (None, False) if is_loopback(host) and not names else (secrets.token_urlsafe(24), True)


@contextmanager
def page_beside(settings: Settings) -> Iterator[None]:
    """Serve the store's page on a free port for the length of the block, and open a browser on it.

    In a terminal the page stays after the block until Ctrl-C.
    """
    is_watched = sys.stderr.isatty()
    with _serving(settings, LOOPBACK, 0) as (url, _):
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
