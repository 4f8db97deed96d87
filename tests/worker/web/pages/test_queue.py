"""The page of the queue."""

from __future__ import annotations

import re

from docmill.storage.core.database import Database
from docmill.storage.leases import shards
from docmill.storage.steps import jobs
from tests.storage.builders import claim_next, done, numbered, read, request, work
from tests.storage.leases.test_dispatch import sign_on
from tests.worker.web.conftest import Browse
from tests.worker.web.pages.test_jobs import HOSTILE


def test_an_empty_queue_says_how_to_fill_it(browse: Browse) -> None:
    page = browse().get("/queue").text
    assert "Nothing waits" in page
    assert "docmill run" in page


def test_a_job_stands_with_the_reason_why_it_waits(browse: Browse, database: Database) -> None:
    first = read(database, request("a.jsonl", corpus=HOSTILE), numbered(300))
    second = read(database, request("b.jsonl"), numbered(2, first=500))
    urgent = read(database, request("c.jsonl", priority=5), numbered(2, first=600))
    jobs.pause(database, second.id)
    page = browse().get("/queue").text
    assert "No live worker serves lane copy" in page
    assert "It is paused" in page
    assert page.count("; made <time") == 3
    assert '<span class="bad">none</span>' in page
    order = [int(found) for found in re.findall(r'href="/jobs/(\d+)"', page)]
    assert order == [urgent.id, first.id, second.id]
    assert "<script>" not in page.replace("<script src", "")
    assert "\u202e" not in page


def test_a_job_that_waits_for_a_place_says_so(browse: Browse, database: Database) -> None:
    read(database, request(), numbered(2))
    sign_on(database, "w1")
    assert "A worker will take it when it has room" in browse().get("/queue").text


def test_a_lane_counts_its_shards_and_the_workers_that_serve_it(browse: Browse, database: Database) -> None:
    read(database, request(), numbered(300))
    sign_on(database, "w1")
    claim = claim_next(database, "w1")
    page = browse().get("/queue?part=rows").text
    counts = re.findall(r'<td class="count">(\d+)</td>', page)
    assert counts == ["0", "1", "1", "1"]  # planned, queued, running; workers
    assert "It makes progress" in page
    shards.commit(database, claim, done(claim), None)
    work(database)
    jobs.finish(database)
    assert "Nothing waits" in browse().get("/queue").text
