"""The page of the queue."""

from __future__ import annotations

import re

from sqlalchemy import update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Worker, db_now
from docmill.storage.leases import dispatch, shards
from docmill.storage.steps import jobs
from tests.storage.builders import claim_next, done, finish, numbered, read, request, shards_of, sign_on
from tests.worker.web.conftest import Browse
from tests.worker.web.pages.marked import SCRIPT, assert_harmless


def test_a_job_stands_with_the_reason_why_it_waits(browse: Browse, database: Database) -> None:
    first = read(database, request("a.jsonl", corpus=SCRIPT), numbered(300))
    second = read(database, request("b.jsonl"), numbered(2, first=500))
    urgent = read(database, request("c.jsonl", priority=5), numbered(2, first=600))
    jobs.pause(database, second.id)
    page = browse().get("/queue").text
    assert "No live worker serves lane copy" in page
    assert "It is paused" in page
    assert page.count("; made <time") == 3
    assert '<span class="bad">none</span>' in page
    order = [int(number) for number in re.findall(r'href="/jobs/(\d+)"', page)]
    assert order == [urgent.id, first.id, second.id]
    assert_harmless(page)


def test_a_lane_counts_its_shards_and_the_workers_that_serve_it(browse: Browse, database: Database) -> None:
    read(database, request(), numbered(300))
    sign_on(database, "w1")
    claim = claim_next(database, "w1")
    page = browse().get("/queue?part=rows").text
    counts = re.findall(r'<td class="count">(\d+)</td>', page)
    assert counts == ["0", "1", "1", "1"]  # planned, queued, running; workers
    assert "It makes progress" in page
    shards.commit(database, claim, done(claim), None)
    finish(database)
    assert "Nothing waits" in browse().get("/queue").text


def test_a_worker_stands_with_its_load_and_what_it_refuses(browse: Browse, database: Database) -> None:
    job = read(database, request(), numbered(2))
    sign_on(database, "w1", slots=4)
    claim_next(database, "w1")
    dispatch.refuse(database, "w1", shards_of(database, job)[0].spec_id, f"no weights {SCRIPT}")
    page = browse().get("/workers?part=rows").text
    assert "<b>1</b> of 4 slots hold a shard" in page
    assert f'<a href="/jobs/{job.id}">Job {job.id}</a>: 1 shard of copy by <bdi>copier</bdi>' in page
    assert "Refuses 1 model" in page
    assert "No weights &lt;script&gt;" in page
    assert_harmless(page)
    assert "working" in page


def test_a_worker_that_fell_silent_or_is_in_trouble_says_so(browse: Browse, database: Database) -> None:
    for name in ("w1", "w2", "w3"):
        sign_on(database, name)

    def change(name: str, **values: object) -> None:
        database.execute(update(Worker).where(Worker.id == name).values(values))

    change("w1", seen_at=db_now() - 300, host="old-host")
    change("w2", trouble="the disk is full")
    change("w3", device_problem="the driver is gone")
    page = browse().get("/workers").text
    assert "Silent for 5 min" in page
    assert "The disk is full" in page
    assert "The driver is gone" in page
    assert page.index("old-host") > page.index("The disk is full")  # those that live come first
