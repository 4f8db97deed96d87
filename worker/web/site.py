"""The site: its store and rights, tokens and sessions, and the guard that lets requests in.

The guard looks at host names, sign-in and forms of other sites, and adds headers that restrict what a page may do.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from urllib.parse import quote

from sqlalchemy import select
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from docmill.storage.core.database import Database
from docmill.storage.errors import StorageError
from docmill.worker.settings import Settings

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})


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
        return LOOPBACK_HOSTS | named | {f"[{host}]" if ":" in host else host}
    return named or None


SESSION_S = 12 * 60 * 60


def are_equal(secret: str, expected: str) -> bool:
    """Return True if two secrets are equal, in a time that does not depend on where they differ."""
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
        """Return True if the cookie belongs to a session that has not ended."""
        end = self._ends.get(_hash(cookie))
        return end is not None and end > self._clock()

    def end(self, cookie: str) -> None:
        """End the session of a cookie, if there is one."""
        self._ends.pop(_hash(cookie), None)


def _hash(cookie: str) -> str:
    return sha256(cookie.encode()).hexdigest()


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
    hosts: frozenset[str] | None = LOOPBACK_HOSTS
    form_token: str = field(default_factory=secrets.token_urlsafe)  # of this start, in each form
    sessions: Sessions = field(default_factory=Sessions)
    # Of this start: browsers send a cookie to every port of a host, and another server may have one.
    cookie: str = field(default_factory=lambda: f"docmill-session-{secrets.token_hex(4)}")


HEALTH, SIGN_IN, SIGN_OUT, STATIC_PATH = "/health", "/sign-in", "/sign-out", "/static/"


def health(database: Database) -> Response:
    """Answer a probe: 200 if the store answers, else 503."""
    try:
        database.value(select(1))
    except StorageError:
        return JSONResponse({"status": "the store does not answer"}, HTTPStatus.SERVICE_UNAVAILABLE)
    return JSONResponse({"status": "ok"})


_OWN_PATH = re.compile(r"/(?![/\\])[!-~]*")
MOST_FORM = 64 * 1024  # bytes
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
NO_STORE = "no-store"


def guard(app: ASGIApp, site: Site) -> ASGIApp:
    """Return an application around the pages' own one, which gets only requests that may be answered."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # nothing here speaks websocket
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", NO_STORE)
            await send(message)

        answer = _refusal(site, Request(scope)) or app
        await answer(scope, receive, with_headers)

    return guarded


def _refusal(site: Site, request: Request) -> Response | None:
    """Return the answer to a request that the pages do not get."""
    path = str(request.scope["path"])  # what the router serves; in `request.url` the Host header can change it
    if path == HEALTH:
        return None
    if not _is_known_host(site, request):
        # Another site may have made its name lead here (DNS rebinding).
        said = "This host name is not allowed. Open the address that docmill printed, or name it with --host-name."
        return PlainTextResponse(said, HTTPStatus.MISDIRECTED_REQUEST)
    if request.method not in {"GET", "HEAD", "POST"}:
        return PlainTextResponse("This method is not allowed.", HTTPStatus.METHOD_NOT_ALLOWED)
    # A link of another site may lead here. Its forms, pictures, frames and scripts may not.
    is_link = request.method != "POST" and request.headers.get("sec-fetch-dest") == "document"
    if is_from_another_site(request) and not is_link:
        return PlainTextResponse("This request comes from another site.", HTTPStatus.FORBIDDEN)
    if request.method == "POST" and _is_too_long(request):
        return PlainTextResponse("This form is too long.", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if path == SIGN_IN or path.startswith(STATIC_PATH) or is_signed_in(site, request):
        return None
    if "hx-request" in request.headers or request.method == "POST":
        return PlainTextResponse("Sign in first.", HTTPStatus.UNAUTHORIZED, {"HX-Refresh": "true"})
    return RedirectResponse(f"{SIGN_IN}?next={quote(_with_query(request))}", HTTPStatus.SEE_OTHER)


def is_signed_in(site: Site, request: Request) -> bool:
    """Return True if the browser has signed in, or need not."""
    return site.token is None or site.sessions.has(request.cookies.get(site.cookie, ""))


def _is_known_host(site: Site, request: Request) -> bool:
    if site.hosts is None:
        return True
    host = request.headers.get("host", "").lower()
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host) in site.hosts


def is_from_another_site(request: Request) -> bool:
    """Return True if a browser says that a page of another site, or of another port, made the request."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site not in {"same-origin", "none"}
    origin = request.headers.get("origin")  # all that browsers send over plain HTTP
    return origin is not None and origin.partition("://")[2].lower() != request.headers.get("host", "").lower()


def _is_too_long(request: Request) -> bool:
    length = request.headers.get("content-length", "")
    digits = length.lstrip("0")  # int() would take long over very many
    # A body that comes in chunks has no length, whatever a header says of it.
    if "transfer-encoding" in request.headers or not length.isdecimal() or len(digits) > len(str(MOST_FORM)):
        return True
    return int(digits or "0") > MOST_FORM


def _with_query(request: Request) -> str:
    query = request.scope["query_string"].decode("latin-1")
    return str(request.scope["path"]) + (f"?{query}" if query else "")


def own_path(path: str) -> str:
    """Return a path of this site; `/` in place of an address that leads to another one."""
    return path if _OWN_PATH.fullmatch(path) and "\\" not in path else "/"


def sign_in(site: Site, request: Request, following: str) -> Response:
    """Exchange the token for the cookie of a new session, and lead to a path."""
    answer = RedirectResponse(following, HTTPStatus.SEE_OTHER)
    if site.token is not None:
        is_secure, cookie = request.scope["scheme"] == "https", site.sessions.begin()
        answer.set_cookie(site.cookie, cookie, SESSION_S, httponly=True, samesite="strict", secure=is_secure)
    return answer


def sign_out(site: Site, request: Request) -> Response:
    """End the browser's session, lead to the form of the token, and take the cookie away."""
    site.sessions.end(request.cookies.get(site.cookie, ""))
    answer = RedirectResponse(SIGN_IN, HTTPStatus.SEE_OTHER)
    answer.delete_cookie(site.cookie, httponly=True, samesite="strict")
    return answer
