"""The page of jobs."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Job
from docmill.storage.steps import jobs
from docmill.worker.settings import Settings
from docmill.worker.web.app import make_app
from docmill.worker.web.pages.jobs import ROWS
from docmill.worker.web.site import Site
from tests.storage.builders import failed, numbered, read, request, set_shard, shards_of, work
from tests.worker.web.conftest import Browse

HOSTILE = '<script>alert(1)</script> \u202e"onload=x \x1b[31m'


def numbers(page: str) -> list[int]:
    return [int(found) for found in re.findall(r'id="job-(\d+)"', page)]


def test_without_jobs_the_page_says_how_to_make_one(browse: Browse) -> None:
    assert "docmill run" in browse().get("/jobs").text


def test_jobs_stand_newest_first_with_their_counts(browse: Browse, database: Database) -> None:
    read(database, request(corpus="first"), numbered(3))
    work(database)
    jobs.finish(database)
    read(database, request(corpus="second"), numbered(7, first=10))
    page = browse().get("/jobs").text
    assert numbers(page) == [2, 1]
    assert re.search(r"<b>3</b> of 3 done", page)
    assert re.search(r"<b>0</b> of 7 done", page)
    assert "No live worker serves lane" in page


def test_the_last_day_stands_with_its_tokens_on_the_first_page_of_all_jobs(
    browse: Browse, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docmill.worker.web.pages.jobs.ROWS", 2)
    found = [read(database, request(corpus=name), numbered(1)).id for name in ("a", "b")]
    browser = browse()
    page = browser.get("/jobs").text
    assert (
        "2 jobs made in the last 24 hours read 0 tokens and wrote 0. For costs, <code>DOCMILL_PRICES</code>" in page
    )
    read(database, request(corpus="c"), numbered(1))
    assert "The latest 2 jobs, all made in the last 24 hours, read 0 tokens" in browser.get("/jobs").text
    assert "24 hours" not in browser.get(f"/jobs?before={found[1]}").text
    assert "24 hours" not in browser.get("/jobs?state=open").text
    yesterday = update(Job).values(created_at=time.time() - 90_000)
    database.write(lambda transaction: transaction.execute(yesterday))
    assert "24 hours" not in browser.get("/jobs").text


def test_failures_in_the_list_lead_to_their_reasons(browse: Browse, database: Database) -> None:
    job = read(database, request(), numbered(3))
    work(database, failed)
    assert f'<a class="bad" href="/jobs/{job.id}/failures">3 failed</a>' in browse().get("/jobs").text


def test_a_job_of_priced_models_stands_with_its_cost_and_a_spoilt_file_of_prices_is_named(
    browse: Browse, database: Database, settings: Settings, tmp_path: Path
) -> None:
    job = read(database, request(), numbered(3))
    read(database, request(corpus="to do"), numbered(1, first=10))
    [shard] = shards_of(database, job)
    set_shard(database, shard.id, state="done", finished_at=1.0, tokens_in=3_000_000)
    prices = tmp_path / "prices.toml"
    prices.write_text('currency = "USD"\n[copier]\ninput = 0.5\n')
    browser = TestClient(
        make_app(Site(database, settings.model_copy(update={"prices": prices}))), base_url="http://localhost"
    )
    page = browser.get("/jobs").text
    assert "2 jobs made in the last 24 hours read 3,000,000 tokens and wrote 0; cost: <b>1.50 USD</b>." in page
    assert page.partition('id="job-1"')[2].count("1.50 USD") == 1
    prices.write_text("[copier]\n")
    answer = browser.get("/jobs")
    assert answer.status_code == 503
    assert "prices.toml: copier has no input" in answer.text


def test_jobs_come_in_pages_that_are_sought_by_number(browse: Browse, database: Database) -> None:
    for n in range(ROWS + 2):
        read(database, request(f"{n}.jsonl"), [])
    browser = browse()
    page = browser.get("/jobs").text
    assert numbers(page) == [*range(ROWS + 2, 2, -1)]
    older = re.findall(r'rel="next" href="([^"]+)"', page)
    assert older == ["/jobs?before=3"]
    page = browser.get(older[0]).text
    assert numbers(page) == [2, 1]
    assert 'rel="next"' not in page
    assert "Newest jobs" in page


@pytest.mark.parametrize(("state", "found"), [("open", [3]), ("paused", [2]), ("cancelled", [1]), ("done", [])])
def test_jobs_of_one_state_alone(browse: Browse, database: Database, state: str, found: list[int]) -> None:
    for n in range(3):
        read(database, request(f"{n}.jsonl"), numbered(2, first=n))
    jobs.cancel(database, 1)
    jobs.pause(database, 2)
    page = browse().get(f"/jobs?state={state}").text
    assert numbers(page) == found
    assert re.search(rf'state={state}" aria-current="true"', page)


def test_a_part_of_the_page_is_its_rows_alone(browse: Browse, database: Database) -> None:
    read(database, request(), numbered(2))
    part = browse().get("/jobs?state=&part=rows").text
    assert numbers(part) == [1]
    assert "<html" not in part
    assert browse().get("/jobs?part=nothing").status_code == 404


def test_a_hostile_name_is_text_and_steers_nothing(browse: Browse, database: Database) -> None:
    read(database, request(corpus=HOSTILE), numbered(1))
    page = browse().get("/jobs").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; [U+202E]&#34;onload=x [U+001B][31m" in page
    assert "\u202e" not in page
    assert "\x1b" not in page
