"""Changes of pipelines by forms."""

from __future__ import annotations

import re

import pytest
from starlette.testclient import TestClient

from docmill.storage.core.database import Database
from docmill.storage.pipelines import pipelines
from tests.worker.web.conftest import Browse
from tests.worker.web.test_guard import signed_in_form

NIGHTLY = {"cron": "30 2 * * *", "timezone": "UTC", "overlap": "skip"}


def form_of(browser: TestClient, name: str) -> dict[str, str]:
    """Return the values that the form on a pipeline's page sends."""
    page = browser.get(f"/pipelines/{name}").text
    form = re.search(rf'<form method="post" action="/pipelines/{name}/run".*?</form>', page)
    assert form is not None
    assert "Run now" in form[0]
    return dict(re.findall(r'name="(\w+)" value="([^"]*)"', form[0]))


def post(browser: TestClient, name: str, form: dict[str, str]) -> str:
    """Send a form, and return what the next page says was done."""
    answer = browser.post(f"/pipelines/{name}/run", data=form)
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/pipelines/{name}"
    return browser.get(answer.headers["location"]).text.partition('role="status">')[2].partition("<")[0]


def test_a_run_is_made_as_one_that_is_due_and_workers_take_it(browse: Browse, database: Database) -> None:
    pipelines.put(database, "nightly", "/data", "", NIGHTLY)
    browser = browse(allows_changes=True)
    assert (
        post(browser, "nightly", form_of(browser, "nightly"))
        == "Run 1 of nightly is due now. A live worker begins it."
    )
    [run] = pipelines.history(database, "nightly")
    assert run.state == "due"
    assert run.due_at is not None
    assert pipelines.hand_out(database) == [run.id]


@pytest.mark.parametrize(
    ("overlap", "said", "states"),
    [
        ("skip", "Run 2 of nightly was skipped: run 1 was still going.", ["skipped", "due"]),
        ("queue", "Run 2 of nightly is due now. A live worker begins it.", ["due", "due"]),
    ],
)
def test_a_run_beside_one_that_goes_follows_the_rule_of_the_schedule(
    browse: Browse, database: Database, overlap: str, said: str, states: list[str]
) -> None:
    pipelines.put(database, "nightly", "/data", "", {**NIGHTLY, "overlap": overlap})
    browser = browse(allows_changes=True)
    post(browser, "nightly", form_of(browser, "nightly"))
    assert post(browser, "nightly", form_of(browser, "nightly")) == said
    assert [run.state for run in pipelines.history(database, "nightly")] == states


def test_a_form_that_is_sent_twice_makes_one_run(browse: Browse, database: Database) -> None:
    pipelines.put(database, "nightly", "/data", "", {**NIGHTLY, "overlap": "queue"})
    browser = browse(allows_changes=True)
    form = form_of(browser, "nightly")
    post(browser, "nightly", form)
    assert post(browser, "nightly", form) == "Nothing was changed: another run of nightly was made meanwhile."
    assert len(pipelines.history(database, "nightly")) == 1


def test_a_pipeline_without_a_schedule_has_no_form_and_is_not_run(browse: Browse, database: Database) -> None:
    pipelines.put(database, "by-hand", "/data", "", None)
    browser = browse(allows_changes=True)
    assert "Run now" not in browser.get("/pipelines/by-hand").text
    token = signed_in_form(browser.get("/sign-in").text)
    assert "by-hand has no schedule" in post(browser, "by-hand", {"form_token": token})
    assert pipelines.history(database, "by-hand") == []


def test_a_run_of_an_unknown_pipeline_is_not_found(browse: Browse) -> None:
    browser = browse(allows_changes=True)
    form = {"form_token": signed_in_form(browser.get("/sign-in").text)}
    assert browser.post("/pipelines/nothing/run", data=form).status_code == 404


def test_a_page_that_only_reads_makes_no_run(browse: Browse, database: Database) -> None:
    pipelines.put(database, "nightly", "/data", "", NIGHTLY)
    form = form_of(browse(allows_changes=True), "nightly")
    browser = browse()
    assert "Run now" not in browser.get("/pipelines/nightly").text
    form["form_token"] = signed_in_form(browser.get("/sign-in").text)
    answer = browser.post("/pipelines/nightly/run", data=form)
    assert answer.status_code == 403
    assert "read-only" in answer.text
    assert pipelines.history(database, "nightly") == []


def test_a_run_without_the_secret_of_the_form_or_by_another_site_is_refused(
    browse: Browse, database: Database
) -> None:
    pipelines.put(database, "nightly", "/data", "", NIGHTLY)
    browser = browse(allows_changes=True)
    form = form_of(browser, "nightly")
    assert browser.post("/pipelines/nightly/run", data=form | {"form_token": "0" * 64}).status_code == 403
    headers = {"sec-fetch-site": "cross-site"}
    assert browser.post("/pipelines/nightly/run", data=form, headers=headers).status_code == 403
    assert browser.get("/pipelines/nightly/run").status_code == 405
    assert pipelines.history(database, "nightly") == []
