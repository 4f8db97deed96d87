"""Changes of jobs by forms."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from docmill.storage.core.database import Database
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs
from tests.storage.builders import numbered, read, request
from tests.worker.web.conftest import Browse
from tests.worker.web.pages.marked import marked_job
from tests.worker.web.test_guard import signed_in_form


def post(browser: TestClient, job: int, change: str, **form: str) -> str:
    """Post a form of a job's page, and return what the next page says was done."""
    token = signed_in_form(browser.get(f"/jobs/{job}").text) or signed_in_form(browser.get("/sign-in").text)
    answer = browser.post(f"/jobs/{job}/{change}", data={"form_token": token, **form})
    assert answer.status_code == 303
    page = browser.get(answer.headers["location"]).text
    said = page.partition('role="status">')[2].partition("<")[0]
    assert said not in browser.get(answer.headers["location"]).text  # once
    return said


def test_a_job_is_paused_resumed_ordered_and_cancelled(browse: Browse, database: Database) -> None:
    job = read(database, request(), numbered(2)).id
    browser = browse(allows_changes=True)
    assert post(browser, job, "pause") == f"Job {job} is paused."
    assert read_status(database, job).state == "paused"
    assert post(browser, job, "resume") == f"Job {job} is resumed."
    assert read_status(database, job).state == "running"
    assert post(browser, job, "priority", priority="-3") == f"Job {job} has the priority -3."
    assert read_status(database, job).priority == -3
    assert post(browser, job, "cancel") == f"Job {job} is cancelled."
    assert post(browser, job, "cancel") == f"Job {job} had ended already."
    assert read_status(database, job).state == "cancelled"
    assert "was cancelled" in post(browser, job, "retry")


def test_failures_are_tried_again_by_class(browse: Browse, database: Database) -> None:
    job = marked_job(database)
    browser = browse(allows_changes=True)
    page = browser.get(f"/jobs/{job}/failures").text
    assert "Retry all 3" in page
    assert post(browser, job, "retry", only="transient") == f"1 text of job {job} will be tried again."
    assert read_status(database, job).pending == 1
    assert post(browser, job, "retry") == f"2 texts of job {job} will be tried again."
    assert post(browser, job, "retry") == f"Job {job} has nothing to try again."


def test_a_page_that_only_reads_changes_nothing(browse: Browse, database: Database) -> None:
    job = read(database, request(), numbered(2)).id
    browser = browse()
    token = signed_in_form(browser.get("/sign-in").text)
    answer = browser.post(f"/jobs/{job}/cancel", data={"form_token": token})
    assert answer.status_code == 403
    assert "read-only" in answer.text
    assert read_status(database, job).state == "running"
    assert "Operate" not in browser.get(f"/jobs/{job}").text


@pytest.mark.parametrize("token", [None, "", "0" * 64])
def test_a_change_without_the_secret_of_the_form_is_refused(
    browse: Browse, database: Database, token: str | None
) -> None:
    job = read(database, request(), numbered(2)).id
    form = {} if token is None else {"form_token": token}
    answer = browse(allows_changes=True).post(f"/jobs/{job}/cancel", data={"x": "y", **form})
    assert answer.status_code == 403
    assert jobs.require(database, job).state == "running"


def test_a_change_by_another_site_or_without_signing_in_is_refused(browse: Browse, database: Database) -> None:
    job = read(database, request(), numbered(2)).id
    browser = browse(allows_changes=True)
    form = {"form_token": signed_in_form(browser.get(f"/jobs/{job}").text)}
    for site in ("cross-site", "same-site"):
        answer = browser.post(f"/jobs/{job}/cancel", data=form, headers={"sec-fetch-site": site})
        assert answer.status_code == 403
    locked = browse(allows_changes=True, token="a token that nobody guesses")
    assert locked.post(f"/jobs/{job}/cancel", data=form).status_code == 401
    assert browser.get(f"/jobs/{job}/cancel").status_code == 405
    assert jobs.require(database, job).state == "running"


@pytest.mark.parametrize(
    ("change", "form"),
    [("priority", {"priority": "high"}), ("priority", {"priority": "9" * 12}), ("retry", {"only": "<b>"})],
)
def test_a_wrong_value_of_a_form_is_named(
    browse: Browse, database: Database, change: str, form: dict[str, str]
) -> None:
    job = read(database, request(), numbered(2)).id
    browser = browse(allows_changes=True)
    token = signed_in_form(browser.get(f"/jobs/{job}").text)
    answer = browser.post(f"/jobs/{job}/{change}", data={"form_token": token, **form})
    assert answer.status_code == 400
    assert next(iter(form.values()))[:4] in answer.text or "&lt;b&gt;" in answer.text


def test_a_change_of_an_unknown_job_is_not_found(browse: Browse) -> None:
    browser = browse(allows_changes=True)
    token = signed_in_form(browser.get("/sign-in").text)
    assert browser.post("/jobs/9/pause", data={"form_token": token}).status_code == 404
