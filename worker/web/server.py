"""The application of `docmill web`, with each page and each change at its path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote

from anyio import CapacityLimiter, fail_after, move_on_after, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from docmill.storage.core.normalize import normalize
from docmill.storage.errors import PASSING, NotFound, StorageError
from docmill.storage.features import load_all
from docmill.worker.errors import WorkerError
from docmill.worker.web.page import TYPES, Change, Page, PageRefused, PageRequest, Renderer, assets, url
from docmill.worker.web.pages import jobs, outputs
from docmill.worker.web.site import (
    HEALTH,
    SIGN_IN,
    SIGN_OUT,
    Site,
    are_equal,
    guard,
    health,
    is_from_another_site,
    own_path,
    sign_in,
    sign_out,
)

PAGES: tuple[Page, ...] = (*jobs.PAGES, *outputs.PAGES, *load_all("pages", Page))
DOCUMENT = "/jobs/{job}/document"  # a page that a feature may bring; others then have links to it
FIRST = PAGES[0]  # the page at `/`
AT_ONCE = 8  # requests that read the store, which has as many connections
LONGEST_FORM_S = 10.0  # until all of a form has come
ATTEMPTS_AT_ONCE, ATTEMPT_S = 8, 0.5  # to sign in: at most 16 tokens are tried in a second
NOTICE = "docmill-notice"  # a cookie: what was done, shown once
FOREVER = "public, max-age=31536000, immutable"
UNREADABLE = "The store does not answer. Try again; `docmill doctor` says what is wrong."
STALE = "This form is older than the server, which was restarted. Go back, reload the page and send it again."
READ_ONLY = "This page is read-only. Start it with `docmill web --allow-changes` to operate jobs and pipelines."


def make_app(site: Site) -> ASGIApp:
    """Return the application that shows a site."""
    return guard(_Application(site).routed(), site)


class _Application:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._limiter = CapacityLimiter(AT_ONCE)
        self._attempts = CapacityLimiter(ATTEMPTS_AT_ONCE)
        self._probes = CapacityLimiter(1)  # health checks do not wait for slow pages
        self._renderer = Renderer(
            {
                "navigation": [(page.name, page.path) for page in PAGES if page.name is not None],
                "allows_changes": site.allows_changes,
                "signs_in": site.token is not None,
                "form_token": site.form_token,
                "shows_documents": any(page.path == DOCUMENT for page in PAGES),
                "version": version("docmill"),
            },
            {page.folder for page in PAGES if page.folder is not None},
        )

    def routed(self) -> Starlette:
        """Return the routes, with a page for each error."""
        routes = [
            Route("/", lambda _: RedirectResponse(FIRST.path), methods=["GET"]),
            Route(HEALTH, self._health, methods=["GET"]),
            Route("/static/{mark}/{name}", _asset, methods=["GET"]),
            Route(SIGN_IN, self._sign_in_page, methods=["GET"]),
            Route(SIGN_IN, self._sign_in, methods=["POST"]),
            Route(SIGN_OUT, self._sign_out, methods=["POST"]),
            Route(jobs.DOWNLOAD, self._download, methods=["GET"]),
            *(Route(page.path, partial(self._show, page), methods=["GET"]) for page in PAGES),
            *(Route(path, partial(self._change, change), methods=["POST"]) for path, change in jobs.CHANGES.items()),
        ]
        return Starlette(
            routes=routes, exception_handlers={Exception: self._show_failure, HTTPException: self._show_missing}
        )

    async def _show(self, page: Page, request: Request) -> Response:
        name = request.query_params.get("part")
        if name is not None and name not in page.parts:
            return await self._refuse(
                request, PageRefused("There is no such part of this page.", HTTPStatus.NOT_FOUND)
            )
        page_request = self._page_request(request)
        notice = unquote(request.cookies.get(NOTICE, "")) if name is None else ""
        answer = await self._answer(request, lambda: self._render(page, page_request, name, notice))
        if notice:
            answer.delete_cookie(NOTICE, httponly=True, samesite="strict")
        return answer

    def _render(self, page: Page, page_request: PageRequest, part: str | None, notice: str) -> Response:
        values = page.read(page_request)
        if part is not None:
            # Once the job has ended, the rest of the page changes, too.
            headers = {"HX-Refresh": "true"} if values.get("has_ended") else None
            return HTMLResponse(self._renderer.part(page, part, values), headers=headers)
        values = {"here": page.path, "notice": notice, **values}
        return HTMLResponse(self._renderer.whole(page.template, values))

    async def _change(self, change: Change, request: Request) -> Response:
        form = await _form_of(request)
        if not self._site.allows_changes:
            return await self._refuse(request, PageRefused(READ_ONLY, HTTPStatus.FORBIDDEN))
        if not self._has_token(form):
            return await self._refuse(request, PageRefused(STALE, HTTPStatus.FORBIDDEN))
        page_request = self._page_request(request, form)

        def act() -> Response:
            path, said = change(page_request)
            answer = RedirectResponse(path, HTTPStatus.SEE_OTHER)
            answer.set_cookie(NOTICE, quote(said), max_age=60, httponly=True, samesite="strict")
            return answer

        return await self._answer(request, act)

    async def _download(self, request: Request) -> Response:
        page_request = self._page_request(request)
        return await self._answer(request, lambda: jobs.download(page_request))

    async def _answer(self, request: Request, act: Callable[[], Response]) -> Response:
        """Return the answer of a function that reads the store, on a thread, or a page about its error."""
        try:
            return await to_thread.run_sync(act, limiter=self._limiter)
        except PageRefused as error:
            return await self._refuse(request, error)
        except NotFound as error:
            return await self._refuse(request, PageRefused(str(error), HTTPStatus.NOT_FOUND))
        except PASSING as error:
            return await self._refuse(request, PageRefused(f"{UNREADABLE} {error}", HTTPStatus.SERVICE_UNAVAILABLE))
        except (StorageError, WorkerError) as error:  # such as a file of prices that was spoilt since the start
            return await self._refuse(request, PageRefused(str(error), HTTPStatus.SERVICE_UNAVAILABLE))

    def _page_request(self, request: Request, form: Mapping[str, str] | None = None) -> PageRequest:
        site = self._site
        # PostgreSQL refuses NUL in a query.
        path = {name: normalize(str(value))[0] for name, value in request.path_params.items()}
        query = {name: normalize(value)[0] for name, value in request.query_params.items()}
        return PageRequest(site.database, site.settings, path, query, form or {}, is_from_another_site(request))

    async def _health(self, _: Request) -> Response:
        return await to_thread.run_sync(health, self._site.database, limiter=self._probes)

    async def _sign_in_page(self, request: Request) -> Response:
        return self._sign_in_form(request.query_params.get("next", ""))

    def _sign_in_form(self, following: str, problem: str | None = None) -> Response:
        values = {"here": SIGN_IN, "notice": None, "following": own_path(following), "problem": problem}
        status = HTTPStatus.OK if problem is None else HTTPStatus.FORBIDDEN
        return HTMLResponse(self._renderer.whole("sign_in.html.j2", values), status)

    async def _sign_in(self, request: Request) -> Response:
        form = await _form_of(request)
        following = own_path(form.get("next", ""))
        if not self._has_token(form):
            return self._sign_in_form(following, STALE)
        if self._site.token is not None:
            async with self._attempts:  # so that all browsers together try few tokens
                with move_on_after(ATTEMPT_S):  # before the comparison: a client that leaves early learns nothing
                    await request.receive()  # returns when the client has left
            if not are_equal(form.get("token", ""), self._site.token):
                return self._sign_in_form(following, "This is not the token that docmill printed at its start.")
        return sign_in(self._site, request, following)

    async def _sign_out(self, request: Request) -> Response:
        form = await _form_of(request)
        return (
            sign_out(self._site, request)
            if self._has_token(form)
            else await self._refuse(request, PageRefused(STALE, HTTPStatus.FORBIDDEN))
        )

    def _has_token(self, form: Mapping[str, str]) -> bool:
        return are_equal(form.get("form_token", ""), self._site.form_token)

    async def _refuse(self, request: Request, error: PageRefused) -> Response:
        """Return a page about an error; of a part of a page only the sentence, which replaces nothing."""
        if "part" in request.query_params:
            return PlainTextResponse(str(error), error.status)
        values = {"here": "", "notice": None, "title": error.status.phrase, "problem": str(error)}
        return HTMLResponse(self._renderer.whole("error.html.j2", values), error.status)

    async def _show_missing(self, request: Request, error: Exception) -> Response:
        status = HTTPStatus(error.status_code) if isinstance(error, HTTPException) else HTTPStatus.NOT_FOUND
        said = "There is no page at this address." if status == HTTPStatus.NOT_FOUND else f"{status.description}."
        return await self._refuse(request, PageRefused(said, status))

    async def _show_failure(self, request: Request, _: Exception) -> Response:
        said = "This page has a bug. The log of `docmill web` has the details."
        return await self._refuse(request, PageRefused(said, HTTPStatus.INTERNAL_SERVER_ERROR))


async def _form_of(request: Request) -> dict[str, str]:
    try:
        with fail_after(LONGEST_FORM_S):
            body = await request.body()
    except TimeoutError as error:
        raise HTTPException(HTTPStatus.REQUEST_TIMEOUT) from error
    except ClientDisconnect as error:
        raise HTTPException(HTTPStatus.BAD_REQUEST) from error  # which nobody reads
    return dict(parse_qsl(body.decode("latin-1")))


async def _asset(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in assets() or request.scope["path"] != url(name):
        return PlainTextResponse("There is no such file.", HTTPStatus.NOT_FOUND)
    return Response(assets()[name], media_type=TYPES[Path(name).suffix], headers={"Cache-Control": FOREVER})
