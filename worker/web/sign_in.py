"""Exchange the token for a cookie, and take the cookie back."""

from __future__ import annotations

import re
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from docmill.worker.web.guard import COOKIE, SIGN_IN
from docmill.worker.web.signing import SESSION_S
from docmill.worker.web.site import Site

SIGN_OUT = "/sign-out"
_OWN_PATH = re.compile(r"/(?![/\\])[!-~]*")


def own_path(given: str) -> str:
    """Return a path of this site; `/` in place of an address that leads to another one."""
    return given if _OWN_PATH.fullmatch(given) and "\\" not in given else "/"


def signed_in(site: Site, request: Request, following: str) -> Response:
    """Lead to a path, with the cookie of a new session."""
    answer = RedirectResponse(following, HTTPStatus.SEE_OTHER)
    if site.token is not None:
        is_secure, cookie = request.scope["scheme"] == "https", site.sessions.begin()
        answer.set_cookie(COOKIE, cookie, SESSION_S, httponly=True, samesite="strict", secure=is_secure)
    return answer


def signed_out(site: Site, request: Request) -> Response:
    """End the browser's session, lead to the form of the token, and take the cookie away."""
    site.sessions.end(request.cookies.get(COOKIE, ""))
    answer = RedirectResponse(SIGN_IN, HTTPStatus.SEE_OTHER)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer
