"""The pages of pipelines."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from docmill.storage.core.database import Database
from docmill.storage.core.schema import PipelineRow
from docmill.storage.pipelines import pipelines
from docmill.worker.settings import Settings
from docmill.worker.web.app import make_app
from docmill.worker.web.pages.pipelines import show_pipeline
from docmill.worker.web.site import Site
from tests.storage.builders import numbered, read, request, work
from tests.worker.web.conftest import Browse
from tests.worker.web.pages.marked import SCRIPT
from tests.worker.web.test_site import signed_in_form

NIGHTLY = {"cron": "30 2 * * *", "timezone": "UTC", "overlap": "skip"}


def test_without_pipelines_the_page_says_how_to_store_one(browse: Browse) -> None:
    assert "docmill pipeline add" in browse().get("/pipelines").text


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
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert "It has not run yet" in browser.get("/pipelines/by-hand").text
    assert browser.get("/pipelines/nothing").status_code == 404


def test_the_runs_of_a_pipeline_have_the_cost_of_their_tokens_where_prices_are_known(
    browse: Browse, database: Database, settings: Settings, tmp_path: Path
) -> None:
    job = read(database, request(), numbered(4))
    work(database)
    pipelines.put(database, "nightly", "/data", "", NIGHTLY)
    pipelines.note(database, pipelines.begin(database, "nightly", "w1", 60), "done", job_id=job.id)
    pipelines.note(database, pipelines.begin(database, "nightly", "w1", 60), "failed", reason="no source")
    assert ">Cost<" not in browse().get("/pipelines/nightly").text
    prices = tmp_path / "prices.toml"
    prices.write_text('currency = "EUR"\n[copier]\ninput = 1e6\noutput = 1e6\n')
    site = Site(database, settings.model_copy(update={"prices": prices}))
    page = TestClient(make_app(site), base_url="http://localhost").get("/pipelines/nightly").text
    assert ">Cost<" in page
    assert re.findall(r"<td>([^<]*)</td></tr>", page) == ["–", "20.00 EUR"]


def test_a_run_that_began_late_and_one_that_nobody_has_made_say_so(browse: Browse, database: Database) -> None:
    pipelines.put(database, "nightly", "/data", "", {**NIGHTLY, "cron": "0 * * * *"})
    [stored] = pipelines.scheduled(database)
    for ago_s in (3 * 3600, 0):
        pipelines.fire(database, stored, time.time() - ago_s)
        stored = pipelines.scheduled(database)[0]
    browser = browse()
    assert re.findall(r">(\d+ h) late<", browser.get("/pipelines/nightly").text) == ["3 h"]
    late = update(PipelineRow).values(looked_at=time.time() - 5 * 3600)
    database.write(lambda transaction: transaction.execute(late))
    assert "late; a live worker makes it" in browser.get("/pipelines").text
    assert "late; a live worker makes it" in browser.get("/pipelines/nightly?part=rows").text


@pytest.mark.parametrize("name", ["%00", "a%00b", "%ff", "x" * 9_000, "..%2f..%2fjobs", "%e2%80%ae"])
def test_a_hostile_name_of_a_pipeline_leads_nowhere(browse: Browse, name: str) -> None:
    assert browse().get(f"/pipelines/{name}").status_code == 404


def test_next_runs_follow_the_schedule_and_a_schedule_that_is_none_is_named() -> None:
    row = PipelineRow()
    vars(row).update(name="nightly", schedule=NIGHTLY, looked_at=0.0)
    assert show_pipeline(row, None, 2, 0.0).coming == (9_000.0, 9_000.0 + 86_400)
    assert show_pipeline(row, None, 3, 9_001.0 + 5 * 86_400).coming == tuple(9_000.0 + n * 86_400 for n in (0, 6, 7))
    row.schedule = {**NIGHTLY, "timezone": "Europe/Atlantis"}
    found = show_pipeline(row, None, 2, 0.0)
    assert found.coming == ()
    assert "Europe/Atlantis" in str(found.problem)


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
