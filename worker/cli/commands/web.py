"""`docmill web`: show jobs and results in a browser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from docmill.worker.cli.context import open_store, settings_from
from docmill.worker.cli.exit_codes import OK
from docmill.worker.cli.interrupts import stop_as_interrupt
from docmill.worker.cli.options import WholeNumber
from docmill.worker.cli.printing import say
from docmill.worker.cli.web_page import until_interrupted

if TYPE_CHECKING:
    from docmill.worker.settings import Settings

PORT = 8321


@click.command("web", epilog="Example: docmill web --port 8321")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on; 0.0.0.0 for all.")
@click.option("--port", type=WholeNumber(0, 65535), default=PORT, show_default=True, help="Port; 0 for any free.")
@click.option(
    "--host-name", "names", multiple=True, metavar="NAME", help="Host name that a proxy uses for it; repeatable."
)
@click.option("--allow-changes", is_flag=True, help="Let the page operate jobs, and run pipelines.")
def web_command(host: str, port: int, names: tuple[str, ...], allow_changes: bool) -> int:
    """Show jobs and results in a browser, until Ctrl-C.

    The page reads the database, so it is right even if every worker is dead. It changes nothing without
    --allow-changes. It shows texts of documents.

    Everybody on this machine can open it on the loopback address, and nobody else. On another address, or with
    --host-name, it asks for a token: that of DOCMILL_WEB_TOKEN, or a new one that is printed once. It speaks HTTP; a
    proxy in front of it has to add TLS.
    """
    from docmill.worker.web.server import serving
    from docmill.worker.web.site import Site, allowed_hosts

    settings = settings_from()
    guarded = _guard(settings, host, names)
    stop_as_interrupt()
    with open_store(settings) as database:
        site = Site(database, settings, allow_changes, guarded.token, allowed_hosts(host, names))
        with serving(site, host, port) as url:
            say(f"Web page: {url} (Ctrl-C ends it)")
            if guarded.is_new:
                say(f"Token: {guarded.token}")
            until_interrupted()
    return OK


@dataclass(frozen=True)
class _Guarded:
    """The token of a page, None if it needs none. A new one has to be printed."""

    token: str | None
    is_new: bool = False


def _guard(settings: Settings, host: str, names: tuple[str, ...]) -> _Guarded:
    from docmill.worker.web.signing import generated_token
    from docmill.worker.web.site import is_loopback

    if settings.web_token is not None:
        return _Guarded(settings.web_token)
    return _Guarded(None) if is_loopback(host) and not names else _Guarded(generated_token(), is_new=True)
