"""The page of the queue."""

from __future__ import annotations

import re

from sqlalchemy import update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Worker, db_now
from docmill.storage.leases import dispatch, shards
from docmill.storage.steps import jobs
from tests.storage.builders import claim_next, done, numbered, read, request, set_shard, shards_of, work
from tests.storage.leases.test_dispatch import sign_on
from tests.worker.web.conftest import Browse
from tests.worker.web.pages.marked import SCRIPT


def test_an_empty_queue_says_how_to_fill_it(browse: Browse) -> None:
    page = browse().get("/queue").text
    assert "Nothing waits" in page
    assert "docmill run" in page


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


def test_without_workers_the_page_says_how_to_start_one(browse: Browse) -> None:
    assert "docmill worker" in browse().get("/workers").text


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
    assert "\u202e" not in page
    assert "working" in page


def test_workers_stand_with_what_they_finished_lately_and_where_their_time_went(
    browse: Browse, database: Database
) -> None:
    job = read(database, request(), numbered(4))
    for name in ("w1", "w2"):
        sign_on(database, name)
    work(database, owner="w1")
    [shard] = shards_of(database, job)
    set_shard(database, shard.id, tokens_in=1_200, started_at=shard.finished_at - 8)
    seconds = {"working": 10.0, "device": 4.0, "reading": 1.0, "cutting": 1.0, "computing": 6.0, "writing": 2.0}
    change = update(Worker).where(Worker.id == "w1").values(time_use=seconds)
    database.write(lambda transaction: transaction.execute(change))
    page = browse().get("/workers").text
    assert "it finished 1 shard with 4 texts and 1,200 tokens, a shard in 8.0 s on average" in page
    assert "device busy 40 %; shards spent 10 % on reading, 10 % on cutting, 60 % on computing, 20 % on writ" in page
    assert page.count("It finished no shard in the last 10 minutes") == 1
    set_shard(database, shard.id, finished_at=shard.finished_at - 700)
    assert browse().get("/workers").text.count("It finished no shard in the last 10 minutes") == 2


def test_a_worker_whose_shards_take_much_longer_than_those_of_others_says_so(
    browse: Browse, database: Database
) -> None:
    job = read(database, request(), numbered(3_000))
    for name in ("w1", "w2"):
        sign_on(database, name)
    work(database)

    def pace(w2_tokens: int) -> str:
        """Have w2 hold each of its shards for 7 s, and w1 for 2 s with 1,000 tokens. Return the page."""
        for place, shard in enumerate(shards_of(database, job)):
            owner, held_s, tokens = ("w1", 2.0, 1_000) if place % 2 else ("w2", 7.0, w2_tokens)
            set_shard(database, shard.id, owner=owner, tokens_in=tokens, started_at=shard.finished_at - held_s)
        return browse().get("/workers").text

    page = pace(1_000)
    assert page.count("Its shards take 3.5 times as long as those of other workers") == 1
    assert page.count(">slow<") == 1
    assert ">slow<" not in pace(3_500)


def test_a_worker_that_fell_silent_or_is_in_trouble_says_so(browse: Browse, database: Database) -> None:
    for name in ("w1", "w2", "w3"):
        sign_on(database, name)

    def change(name: str, **values: object) -> None:
        database.write(
            lambda transaction: transaction.execute(update(Worker).where(Worker.id == name).values(values))
        )

    change("w1", seen_at=db_now() - 300, host="old-host")
    change("w2", trouble="the disk is full")
    change("w3", device_problem="the driver is gone")
    page = browse().get("/workers").text
    assert "Silent for 5 min" in page
    assert "The disk is full" in page
    assert "The driver is gone" in page
    assert page.index("old-host") > page.index("The disk is full")  # those that live come first
