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
from docmill.worker.web.pages.pipelines import planned
from docmill.worker.web.site import Site
from tests.storage.builders import numbered, read, request, work
from tests.worker.web.conftest import Browse
from tests.worker.web.pages.test_jobs import HOSTILE

NIGHTLY = {"cron": "30 2 * * *", "timezone": "UTC", "overlap": "skip"}


def test_without_pipelines_the_page_says_how_to_store_one(browse: Browse) -> None:
    assert "docmill pipeline add" in browse().get("/pipelines").text


def test_a_pipeline_stands_with_its_last_and_next_runs(browse: Browse, database: Database) -> None:
    job = read(database, request(), numbered(1))
    pipelines.put(database, "nightly", "/data", f"# {HOSTILE}", NIGHTLY)
    pipelines.put(database, "by-hand", "/data", "", None)
    run = pipelines.begin(database, "nightly", "w1", 60)
    pipelines.note(database, run, "failed", job_id=job.id, reason=f"no source {HOSTILE}")
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
    assert planned(row, None, 2, 0.0).coming == (9_000.0, 9_000.0 + 86_400)
    assert planned(row, None, 3, 9_001.0 + 5 * 86_400).coming == tuple(9_000.0 + n * 86_400 for n in (0, 6, 7))
    row.schedule = {**NIGHTLY, "timezone": "Europe/Atlantis"}
    found = planned(row, None, 2, 0.0)
    assert found.coming == ()
    assert "Europe/Atlantis" in str(found.problem)
