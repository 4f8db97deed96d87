"""The application: errors, files and the registry of pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from docmill.storage.core.database import Database
from docmill.storage.errors import DatabaseUnreachable, RightMissing, StorageError
from docmill.worker.settings import Settings
from docmill.worker.web.page import TYPES, url
from docmill.worker.web.pages import jobs
from docmill.worker.web.server import PAGES, make_app
from docmill.worker.web.site import Site
from tests.worker.web.conftest import Browse


def test_the_navigation_follows_from_the_registry(empty: Browse) -> None:
    page = empty().get("/jobs").text
    navigation = page.partition('aria-label="Pages"')[2].partition("</nav>")[0]
    assert re.findall(r'href="([^"]+)"', navigation) == [page.path for page in PAGES if page.name]
    assert navigation.count('aria-current="page"') == 1


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        *(f"/jobs/{job}" for job in ("9" * 24, "1" * 5_000, "x", "١")),
        "/static/0/page.css",
        "/static/../a",
    ],
)
def test_an_address_that_leads_nowhere_says_so(empty: Browse, path: str) -> None:
    assert empty().get(path).status_code == 404


@pytest.mark.parametrize("query", ["before=x", "before=-1", "before=" + "9" * 30, "before=٣", "state=<b>"])
def test_a_wrong_value_in_an_address_is_named(empty: Browse, query: str) -> None:
    answer = empty().get(f"/jobs?{query}")
    assert answer.status_code == 400
    assert query.partition("=")[0] + "=" in answer.text
    assert "<b>" not in answer.text


def test_files_are_kept_for_good_and_found_by_their_hash(empty: Browse) -> None:
    browser = empty()
    for name in ("page.css", "htmx.min.js", "icon.svg"):
        answer = browser.get(url(name))
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["content-type"].startswith(TYPES["." + name.rpartition(".")[2]])


def test_a_store_that_does_not_answer_is_an_error_of_its_own(tmp_path: Path) -> None:
    store = Database(f"sqlite:///{tmp_path / 'docmill.db'}")
    browser = TestClient(make_app(Site(store, Settings(home=tmp_path))), base_url="http://localhost")
    answer = browser.get("/jobs")  # there is no table
    assert answer.status_code == 503
    assert "docmill db upgrade" in answer.text
    (tmp_path / "docmill.db").unlink()
    (tmp_path / "docmill.db").mkdir()
    store.close()
    assert browser.get("/health").status_code == 503


@pytest.mark.parametrize(("error", "passes"), [(DatabaseUnreachable, True), (RightMissing, False)])
def test_only_an_error_that_passes_says_that_the_store_does_not_answer(
    empty: Browse, monkeypatch: pytest.MonkeyPatch, error: type[StorageError], passes: bool
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(jobs, "list_statuses", refuse)
    answer = empty().get("/jobs")
    assert answer.status_code == 503
    assert str(error()).partition("'")[0] in answer.text
    assert ("docmill doctor" in answer.text) is passes


def test_a_form_of_another_encoding_is_refused(empty: Browse) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="form_token"\r\n\r\n\\ud800\r\n--x--\r\n'
    for charset in ("utf-8", "idna", "unicode_escape"):
        headers = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
        assert empty().post("/sign-in", content=body, headers=headers).status_code == 403
