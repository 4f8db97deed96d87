"""The pages of pipelines."""

from __future__ import annotations

import re

import pytest
from starlette.testclient import TestClient

from docmill.storage.core.database import Database
from docmill.storage.pipelines import pipelines
from tests.storage.builders import numbered, read, request
from tests.worker.web.conftest import Browse
from tests.worker.web.pages.marked import SCRIPT, assert_harmless
from tests.worker.web.test_site import signed_in_form

NIGHTLY = {"cron": "30 2 * * *", "timezone": "UTC", "overlap": "skip"}


def test_a_pipeline_stands_with_its_last_and_next_runs(browse: Browse, database: Database) -> None:
    job = read(database, request(), numbered(1))
    pipelines.put(database, "nightly", "/data", f"# {SCRIPT}", NIGHTLY)
    pipelines.put(database, "by-hand", "/data", "", None)
    run = pipelines.begin(database, "nightly", "w1", 60)
    pipelines.note(database, run, "failed", job_id=job.id, reason=f"no source {SCRIPT}")
    browser = browse()
    page = browser.get("/pipelines").text
    assert page.index("by-hand") < page.index(">nightly<")
    assert re.search(r"\d{4}-\d\d-\d\d 02:30:00", page)
    assert "failed" in page
    assert f'<a href="/jobs/{job.id}">job {job.id}</a>' in page
    assert "No source &lt;script&gt;" in page
    page = browser.get("/pipelines/nightly").text
    assert len(set(re.findall(r"\d{4}-\d\d-\d\dT02:30:00Z", page))) == 5
    assert f'<a href="/jobs/{job.id}">{job.id}</a>' in page
    assert "No source &lt;script&gt;" in page
    assert_harmless(page)
    assert "It has not run yet" in browser.get("/pipelines/by-hand").text
    assert browser.get("/pipelines/nothing").status_code == 404


@pytest.mark.parametrize("name", ["%00", "a%00b", "%ff", "x" * 9_000, "..%2f..%2fjobs", "%e2%80%ae"])
def test_a_hostile_name_of_a_pipeline_leads_nowhere(browse: Browse, name: str) -> None:
    assert browse().get(f"/pipelines/{name}").status_code == 404


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
