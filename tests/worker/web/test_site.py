"""Sessions of a server, requests that it must refuse, and headers of every answer."""

from __future__ import annotations

import re

import pytest
from anyio import CancelScope, move_on_after
from httpx2 import Response
from starlette.datastructures import URL
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient

from docmill.worker.web import server
from docmill.worker.web.pages.jobs import CHANGES
from docmill.worker.web.server import PAGES
from docmill.worker.web.site import (
    SESSION_S,
    Sessions,
    allowed_hosts,
    is_loopback,
)
from tests.worker.web.conftest import Browse

TOKEN, COOKIE = "a token that nobody guesses", "session"


@pytest.fixture(autouse=True)
def tokens_are_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ATTEMPT_S", 0.0)


def signed_in_form(page: str) -> str:
    """Return the token of the first form on a page."""
    return page.partition('name="form_token" value="')[2].partition('"')[0]


def sign_in(
    browser: TestClient, token: str = TOKEN, *, following: str = "", headers: dict[str, str] | None = None
) -> Response:
    form = {"form_token": signed_in_form(browser.get("/sign-in").text), "token": token, "next": following}
    return browser.post("/sign-in", data=form, headers=headers)


@pytest.mark.parametrize("path", ["/jobs", "/sign-in", "/nothing", "/health"])
def test_every_answer_has_a_strict_policy_which_the_pages_keep_and_is_not_kept(empty: Browse, path: str) -> None:
    answer = empty().get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    assert "<style" not in answer.text
    assert " style=" not in answer.text
    assert answer.text.count("<script") == answer.text.count('<script src="/static/')


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        # A name that was rebound to this machine, and its own names.
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example:8321"}, 421),
        ({"host": "localhost.evil:80"}, 421),
        ({"host": ""}, 421),
        ({"host": "[::2]:8321"}, 421),
        ({"host": "[::1]:8321"}, 200),
        ({"host": "LOCALHOST"}, 200),
        # What a page of another site embeds, its links, and the page itself.
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "image"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-dest": "empty"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, 403),
        ({"origin": "https://evil.example"}, 403),  # of a browser that sends no other header
        ({"origin": "http://127.0.0.1:8000"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}, 200),
        ({"sec-fetch-site": "none", "sec-fetch-dest": "document"}, 200),
        ({"sec-fetch-site": "same-origin", "sec-fetch-dest": "empty"}, 200),
        ({"origin": "http://127.0.0.1:8321"}, 200),
        ({"origin": "null"}, 403),  # of a page on another port, which hides its address,
    ],
)
def test_only_this_machine_its_own_page_and_links_to_it_are_answered(
    empty: Browse, headers: dict[str, str], status: int
) -> None:
    for path in ("/jobs", "/sign-in", *(["/search?text=x"] if status != 200 else [])):
        answer = empty().get(path, headers=headers)
        assert answer.status_code == status
        assert "Jobs" not in answer.text or status == 200


@pytest.mark.parametrize(
    "host", ["x/health?a=", "x/static/?", "x/sign-in#", "x/health\\", "[::1]/health?", "x@/health?"]
)
def test_no_host_header_leads_around_the_sign_in(empty: Browse, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Releases of starlette before 1.0.1 made a request's URL in this way.
    monkeypatch.setattr(HTTPConnection, "url", property(lambda self: URL(f"http://{host}{self.scope['path']}")))
    browser = empty(token=TOKEN, hosts=None, allows_changes=True)
    for route in [*(page.path for page in PAGES), *CHANGES]:
        path = re.sub(r"\{\w+\}", "1", route)
        answer = browser.get(path, headers={"host": host})
        assert (answer.status_code, answer.headers["location"]) == (303, f"/sign-in?next={path}")
        assert browser.post(path, headers={"host": host}).status_code == 401
    assert browser.post("/sign-out", headers={"host": host}).status_code == 401


def test_a_probe_needs_no_name_and_no_token(empty: Browse) -> None:
    answer = empty(token=TOKEN).get("/health", headers={"host": "10.0.0.7:8321"})
    assert answer.json() == {"status": "ok"}


def test_without_the_token_there_is_only_the_form_for_it(empty: Browse) -> None:
    browser = empty(token=TOKEN)
    answer = browser.get("/jobs?state=done")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in?next=/jobs%3Fstate%3Ddone"
    assert browser.get("/jobs?part=rows", headers={"hx-request": "true"}).status_code == 401
    assert TOKEN not in browser.get("/sign-in").text


def test_the_token_is_exchanged_for_a_cookie_that_no_script_and_no_other_site_gets(empty: Browse) -> None:
    browser = empty(token=TOKEN)
    answer = sign_in(browser, following="/jobs?state=done")
    assert (answer.status_code, answer.headers["location"]) == (303, "/jobs?state=done")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert browser.get("/jobs").status_code == 200


def test_a_cookie_opens_nothing_after_its_sign_out_nor_after_its_time(empty: Browse) -> None:
    now = 0.0
    browser = empty(token=TOKEN, sessions=Sessions(lambda: now), cookie=COOKIE)
    cookie = sign_in(browser).cookies[COOKIE]
    out = browser.post("/sign-out", data={"form_token": signed_in_form(browser.get("/jobs").text)})
    assert out.headers["location"] == "/sign-in"
    browser.cookies.set(COOKIE, cookie)
    assert browser.get("/jobs").status_code == 303
    browser.cookies.clear()
    assert f"Max-Age={SESSION_S}" in sign_in(browser).headers["set-cookie"]
    assert browser.get("/jobs").status_code == 200
    now += SESSION_S
    assert browser.get("/jobs").status_code == 303


@pytest.mark.parametrize(("token", "status"), [("a wrong token of some length", 403), (TOKEN, 303)])
def test_a_token_waits_before_it_is_looked_at(
    empty: Browse, monkeypatch: pytest.MonkeyPatch, token: str, status: int
) -> None:
    waits: list[float] = []

    def note(seconds: float) -> CancelScope:
        waits.append(seconds)
        return move_on_after(0.0)

    monkeypatch.setattr(server, "ATTEMPT_S", 5.0)
    monkeypatch.setattr(server, "move_on_after", note)
    assert sign_in(empty(token=TOKEN), token).status_code == status
    assert waits == [5.0]


def test_two_servers_on_one_host_keep_their_own_sessions(empty: Browse) -> None:
    first, second = empty(token=TOKEN), empty("http://127.0.0.1:8322", token=TOKEN)
    for browser in (first, second):
        assert sign_in(browser).status_code == 303
    first.cookies.update(second.cookies)  # a browser has one jar for all ports of a host
    assert first.get("/jobs").status_code == 200


def test_over_https_the_cookie_is_sent_over_https_alone(empty: Browse) -> None:
    assert "Secure" in sign_in(empty("https://127.0.0.1", token=TOKEN)).headers["set-cookie"]


@pytest.mark.parametrize("token", ["", "another token of that length", TOKEN + " ", "ä" * 40])
def test_a_wrong_token_gets_no_cookie(empty: Browse, token: str) -> None:
    answer = sign_in(empty(token=TOKEN), token)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert "not the token" in answer.text


@pytest.mark.parametrize("following", ["//evil.example", "https://evil.example", "/\\evil.example", "jobs", "/a\nb"])
def test_signing_in_never_leads_to_another_site(empty: Browse, following: str) -> None:
    assert sign_in(empty(token=TOKEN), following=following).headers["location"] == "/"


def test_a_form_of_another_site_is_refused(empty: Browse) -> None:
    browser = empty(token=TOKEN)
    assert browser.post("/sign-in", data={"token": TOKEN}).status_code == 403
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 303)):
        assert sign_in(browser, headers={"sec-fetch-site": site}).status_code == status


def test_a_long_form_is_not_read(empty: Browse) -> None:
    browser = empty(token=TOKEN)
    assert browser.post("/sign-in", data={"token": "x" * 100_000}).status_code == 413
    assert browser.post("/sign-in", content=iter([b"token=", b"x"])).status_code == 413  # of unknown length
    assert browser.post("/sign-in", data={"token": "x"}, headers={"transfer-encoding": "chunked"}).status_code == 413
    assert browser.post("/sign-in", content=b"x", headers={"content-length": "9" * 5_000}).status_code == 413
    for length in ("0" * 9 + "100000", "65537", "1" + "0" * 20, "", "-1", "1_0"):
        assert browser.post("/sign-in", content=b"x", headers={"content-length": length}).status_code == 413
    assert browser.post("/sign-in", content=b"x", headers={"content-length": "000000000001"}).status_code == 403


def test_other_methods_are_refused(empty: Browse) -> None:
    assert empty().request("DELETE", "/jobs").status_code == 405
    assert empty().request("TRACE", "/jobs").status_code == 405
    assert empty(allows_changes=True).get("/jobs/1/cancel").status_code == 405


def test_only_the_loopback_address_needs_no_token() -> None:
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.1.2.3", "::1"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.7", "example.org", "127.0.0.1.evil.example"]))


def test_hosts_are_those_of_this_machine_and_of_the_proxy() -> None:
    own = {"localhost", "127.0.0.1", "[::1]"}
    assert allowed_hosts("127.0.0.1", ["Docmill.example.org"]) == frozenset({*own, "docmill.example.org"})
    assert allowed_hosts("0.0.0.0", []) is None
    assert allowed_hosts("0.0.0.0", ["docmill.example.org"]) == frozenset({"docmill.example.org"})
