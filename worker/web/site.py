"""A web page's store, rights and guards."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from docmill.worker.web.signing import Attempts, Sessions, Signer

if TYPE_CHECKING:
    from docmill.storage.core.database import Database
    from docmill.worker.settings import Settings

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True)
class Site:
    """The store that the pages show, and the rights of those who see them.

    With a `token` a browser has to sign in. `hosts` are the names that a request may give as its host; None allows
    every name, which is safe only with a token.
    """

    database: Database
    settings: Settings
    allows_changes: bool = False
    token: str | None = None
    hosts: frozenset[str] | None = LOOPBACK
    signer: Signer = field(default_factory=Signer)
    sessions: Sessions = field(default_factory=Sessions)
    attempts: Attempts = field(default_factory=Attempts)


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach an address to serve on."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def allowed_hosts(host: str, names: Iterable[str]) -> frozenset[str] | None:
    """Return the host names that requests may give, if the page is served on `host` and proxies use other `names`."""
    named = frozenset(name.lower() for name in names)
    if is_loopback(host):
        return LOOPBACK | named | {f"[{host}]" if ":" in host else host}
    return named or None
