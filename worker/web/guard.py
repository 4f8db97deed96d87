"""Guard the pages: host names, sign-in, forms of other sites, and headers that restrict what a page may do."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from docmill.worker.web.site import SESSION_S, Site

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


HEALTH, SIGN_IN, SIGN_OUT, STATIC = "/health", "/sign-in", "/sign-out", "/static/"
_OWN_PATH = re.compile(r"/(?![/\\])[!-~]*")
COOKIE = "docmill-session"
MOST_FORM = 64 * 1024  # bytes
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
NO_STORE = "no-store"


class Guard:
    """An application around the pages' own one, which gets only requests that may be answered."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app = app
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":  # nothing here speaks websocket
            return
        request = Request(scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", NO_STORE)
            await send(message)

        answer = _refusal(self._site, request) or self._app
        await answer(scope, receive, with_headers)


def _refusal(site: Site, request: Request) -> Response | None:
    """Return the answer to a request that the pages do not get."""
    path = str(request.scope["path"])  # what the router serves; in `request.url` the Host header can change it
    if path == HEALTH:
        return None
    if not _is_known_host(site, request):
        # A name that leads here and is not ours: a page of another site may have rebound it (DNS rebinding).
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
    if path == SIGN_IN or path.startswith(STATIC) or is_signed_in(site, request):
        return None
    if "hx-request" in request.headers or request.method == "POST":
        return PlainTextResponse("Sign in first.", HTTPStatus.UNAUTHORIZED, {"HX-Refresh": "true"})
    return RedirectResponse(f"{SIGN_IN}?next={quote(_with_query(request))}", HTTPStatus.SEE_OTHER)


def is_signed_in(site: Site, request: Request) -> bool:
    """Return True if the browser has signed in, or need not."""
    return site.token is None or site.sessions.has(request.cookies.get(COOKIE, ""))


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
    _, known, host = request.headers.get("origin", "").partition("://")  # of an old browser; it may be `null`
    return bool(known) and host.lower() != request.headers.get("host", "").lower()


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
        answer.set_cookie(COOKIE, cookie, SESSION_S, httponly=True, samesite="strict", secure=is_secure)
    return answer


def sign_out(site: Site, request: Request) -> Response:
    """End the browser's session, lead to the form of the token, and take the cookie away."""
    site.sessions.end(request.cookies.get(COOKIE, ""))
    answer = RedirectResponse(SIGN_IN, HTTPStatus.SEE_OTHER)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer
