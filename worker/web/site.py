"""A web page's store and rights, and the secrets of its server: tokens, signatures, sessions."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import math
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docmill.storage.core.database import Database
    from docmill.worker.settings import Settings


LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


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


LEAST_TOKEN = 16  # characters
SESSION_S = 12 * 60 * 60
LONGEST_WAIT_S = 8.0
MOST_ADDRESSES = 10_000  # whose wrong tokens are counted


def generated_token() -> str:
    """Return a token that nobody guesses."""
    return secrets.token_urlsafe(24)


def same(secret: str, expected: str) -> bool:
    """Compare two secrets in a time that says nothing of where they differ."""
    return hmac.compare_digest(secret.encode(), expected.encode())


class Sessions:
    """The browsers that have signed in. A session ends after `SESSION_S`, at sign-out, and with the server."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: dict[str, float] = {}  # by the hash of the cookie: a search in the dict tells nothing of it

    def begin(self) -> str:
        """Return the cookie of a new session."""
        now = self._clock()
        self._ends = {known: end for known, end in self._ends.items() if end > now}
        cookie = secrets.token_urlsafe(32)
        self._ends[_hash(cookie)] = now + SESSION_S
        return cookie

    def has(self, cookie: str) -> bool:
        """Return True if the cookie is that of a session which has not ended."""
        end = self._ends.get(_hash(cookie))
        return end is not None and end > self._clock()

    def end(self, cookie: str) -> None:
        """End the session of a cookie, if there is one."""
        self._ends.pop(_hash(cookie), None)


class Attempts:
    """Slows those who try tokens: a token waits before it is looked at, longer after recent wrong ones.

    Wrong tokens count for their address and for all addresses together, and are forgiven one by one. Every token is
    looked at in the end, so that wrong tokens of others never keep the right one out.
    """

    _ALL = "all addresses"
    _FREE, _FORGIVEN_S = 5, 60.0
    _ALL_FREE, _ALL_FORGIVEN_S = 50, 6.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._forgiven_at: dict[str, float] = {}  # when all wrong tokens of an address will be

    def begin(self, address: str) -> float:
        """Return the seconds that a token from this address has to wait. It counts as wrong until `forgive`."""
        network = _network(address)
        waits = (
            self._count(network, self._FREE, self._FORGIVEN_S),
            self._count(self._ALL, self._ALL_FREE, self._ALL_FORGIVEN_S),
        )
        while len(self._forgiven_at) > MOST_ADDRESSES:
            del self._forgiven_at[next(iter(self._forgiven_at))]
        return max(waits)

    def forgive(self, address: str) -> None:
        """Forgive a token from this address, since it was the right one."""
        for key, forgiven_s in ((_network(address), self._FORGIVEN_S), (self._ALL, self._ALL_FORGIVEN_S)):
            if key in self._forgiven_at:
                self._forgiven_at[key] -= forgiven_s

    def _count(self, key: str, free: int, forgiven_s: float) -> float:
        now = self._clock()
        most = free + math.log2(LONGEST_WAIT_S) + 1
        forgiven_at = min(max(self._forgiven_at.pop(key, now), now) + forgiven_s, now + most * forgiven_s)
        self._forgiven_at[key] = forgiven_at  # at the end of the dict, whose first entries are forgotten
        n = (forgiven_at - now) / forgiven_s
        return min(2.0 ** (n - free - 1), LONGEST_WAIT_S) if n > free else 0.0


def _network(address: str) -> str:
    """Return an address; of IPv6 its network of 64 bits, in which one machine may have every address."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(known, ipaddress.IPv4Address):
        return str(known)
    return str(known.ipv4_mapped or ipaddress.ip_network((int(known), 64), strict=False))


def _hash(cookie: str) -> str:
    return sha256(cookie.encode()).hexdigest()


class Signer:
    """Signs with a key of its own, so that nothing from before a restart is taken."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self.form_token = self._mac("form")

    def sign(self, text: str) -> str:
        """Return a text with its signature, in characters that a cookie may have."""
        return f"{base64.urlsafe_b64encode(text.encode()).decode()}.{self._mac(f'said {text}')}"

    def signed(self, value: str) -> str | None:
        """Return the text that was signed here; None if the signature is wrong."""
        body, _, mac = value.partition(".")
        try:
            text = base64.urlsafe_b64decode(body.encode()).decode()
        except (binascii.Error, ValueError):
            return None
        return text if same(mac, self._mac(f"said {text}")) else None

    def _mac(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), sha256).hexdigest()


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
