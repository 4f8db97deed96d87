"""The pages of one job."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from docmill.storage.core.database import Database
from docmill.storage.core.outcomes import Outcome, Status
from docmill.storage.ingest import ingest
from docmill.storage.ingest.chunks import Rejected
from docmill.storage.leases import shards
from docmill.storage.leases.shards import Claim
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs
from docmill.worker.reports.facts import gather
from docmill.worker.reports.page import write
from docmill.worker.web.pages.outputs import ROWS
from tests.storage.builders import claim_next, done, gathered, numbered, read, records, request, set_shard, work
from tests.worker.web.conftest import Browse
from tests.worker.web.pages.marked import HOSTILE, SUMMARIZE, marked_job


def harmless(page: str) -> bool:
    """Return True if nothing of the hostile text is a tag, or steers how text is shown."""
    return "<img src=x" not in page and "\u202e" not in page and "\x1b" not in page


def test_an_unknown_job_is_not_found(browse: Browse) -> None:
    for path in ("", "/failures", "/flagged", "/samples", "/document?id=x"):
        answer = browse().get(f"/jobs/7{path}")
        assert answer.status_code == 404
        assert "There is no job 7" in answer.text


def test_the_page_has_progress_pace_and_steps(browse: Browse, database: Database) -> None:
    job = marked_job(database)
    page = browse().get(f"/jobs/{job}").text
    assert "100 %" in page
    assert re.search(r'<b class="number">4</b> done', page)
    assert re.search(r'<b class="number">3</b> failed', page)
    assert "hx-get" not in page  # it has ended: nothing changes any more
    assert "Operate" not in page


def test_a_job_that_goes_on_is_asked_for_again_in_parts(browse: Browse, database: Database) -> None:
    job = read(database, request(), numbered(4))
    browser = browse()
    page = browser.get(f"/jobs/{job.id}").text
    assert f'hx-get="/jobs/{job.id}?part=progress"' in page
    assert "No live worker serves lane" in page
    part = browser.get(f"/jobs/{job.id}?part=progress").text
    assert "<html" not in part
    assert "0 %" in part
    work(database)
    assert "100 %" in browser.get(f"/jobs/{job.id}?part=progress").text


def test_a_part_of_a_job_that_is_gone_replaces_nothing(browse: Browse) -> None:
    answer = browse().get("/jobs/9?part=progress", headers={"hx-request": "true"})
    assert answer.status_code == 404
    assert "<" not in answer.text


def test_failures_stand_by_reason_with_their_documents(browse: Browse, database: Database) -> None:
    job = marked_job(database)
    page = browse().get(f"/jobs/{job}/failures").text
    assert harmless(page)
    rows = re.findall(r"<tr><td>(.*?)</td>.*?class=\"count\">(\d+)</td></tr>", page, re.DOTALL)
    assert [n for _, n in rows] == ["2", "1"]
    assert re.findall(r"document\?id=(\w+)", rows[0][0]) == ["f1", "f2"]
    assert "503" in rows[1][0]
    assert f"docmill retry {job}" in page
    assert "<form" not in page  # changes are not allowed


def test_rejected_records_are_failures_and_nothing_says_that_all_have_a_result(
    browse: Browse, database: Database
) -> None:
    everything = "Every text that was computed has a result"
    job = jobs.open_job(database, request(spec=SUMMARIZE))
    ingest.add(database, job, records(numbered(1)))
    browser = browse()
    assert everything in browser.get(f"/jobs/{job.id}/failures").text
    ingest.add(database, job, gathered(), [Rejected(f"a.jsonl:{n}", f"{HOSTILE} not JSON") for n in (2, 3)])
    ingest.end(database, job)
    page = browser.get(f"/jobs/{job.id}/failures").text
    assert harmless(page)
    assert everything not in page
    assert "a.jsonl:2" in page
    assert re.findall(r"class=\"count\">(\d+)</td></tr>", page) == ["2"]
    assert f"docmill results {job.id} --all" in page


def test_flagged_outputs_stand_beside_their_inputs(browse: Browse, database: Database) -> None:
    job = marked_job(database)
    browser = browse()
    page = browser.get(f"/jobs/{job}/flagged").text
    assert harmless(page)
    assert re.findall(r"document\?id=(\w+)", page) == ["d0", "d1", "w1"]
    assert "<mark>99</mark>" in page
    assert "numbers_changed&nbsp;" in page
    page = browser.get(f"/jobs/{job}/flagged?flag=windowed").text
    assert re.findall(r"document\?id=(\w+)", page) == ["w1"]
    assert "<mark>" not in page


def test_a_doubtful_flag_without_evidence_stands_with_its_meaning(browse: Browse, database: Database) -> None:
    def unsure(claim: Claim) -> list[Outcome]:
        flags = ("low_confidence", "windowed")
        return [Outcome(content_id, Status.DONE, text="out", flags=flags) for content_id, _ in claim.texts]

    job = read(database, request(spec=SUMMARIZE), numbered(1))
    work(database, unsure)
    page = browse().get(f"/jobs/{job.id}/flagged").text
    assert "low_confidence: the model found its own words improbable" in page
    assert "windowed: " not in page  # it casts no doubt


def test_flagged_outputs_come_in_pages(browse: Browse, database: Database) -> None:
    job = marked_job(database, doubtful=ROWS + 3)
    browser = browse()
    path, found = f"/jobs/{job}/flagged?flag=numbers_changed", []
    while path:
        page = browser.get(path).text
        found.append(len(re.findall(r"document\?id=d\d+", page)))
        following = re.search(r'rel="next" href="([^"]+)"', page)
        path = html.unescape(following[1]) if following else ""
    assert sum(found) == ROWS + 3
    assert max(found) == ROWS


@pytest.mark.parametrize("query", ["flag=<b>", "step=none", "after=1", "after=0-0-x", "after=9-9-9", "after=1-0-5"])
def test_a_wrong_place_is_refused(browse: Browse, database: Database, query: str) -> None:
    job = marked_job(database)
    assert browse().get(f"/jobs/{job}/flagged?{query}").status_code == 400


def test_samples_are_results_without_flags_first(browse: Browse, database: Database) -> None:
    job = marked_job(database)
    page = browse().get(f"/jobs/{job}/samples").text
    assert harmless(page)
    assert len(re.findall(r"<article", page)) == 4
    assert page.index(">plain<") < page.index("id=w1") < page.index("id=d0")
    empty = read(database, request("b.jsonl", corpus="new", spec=SUMMARIZE), [])
    assert "no results yet" in browse().get(f"/jobs/{empty.id}/samples").text


@pytest.mark.parametrize(("key", "said"), [("d0", "numbers_changed"), ("f1", "a retry gives the same"), ("w1", "99")])
def test_a_document_is_explained(browse: Browse, database: Database, key: str, said: str) -> None:
    job = marked_job(database)
    page = browse().get(f"/jobs/{job}/document?id={key}").text
    assert harmless(page)
    assert said in page
    assert "sha256:1" in page
    assert "<dt>Source</dt><dd><bdi>a.jsonl</bdi>, read " in page
    assert "by worker <bdi>w1</bdi>" in page
    assert f'In job <a href="/jobs/{job}/document?id={key}">{job}</a> (' in page


def test_a_document_that_is_not_there_is_not_found(browse: Browse, database: Database) -> None:
    job = marked_job(database)
    for query in ("id=none", "id=d0&step=none", "", "id=%00", "id=%ED%A0%80"):
        assert browse().get(f"/jobs/{job}/document?{query}").status_code == 404


def scale(page: str) -> list[int]:
    """Return the numbers at the axis of a page's chart of tokens per second."""
    chart = page.partition('aria-label="Tokens per second')[2].partition("</svg>")[0]
    return [int(label.replace(",", "")) for label in re.findall(r">([\d,]+)</text>", chart)]


def test_a_jobs_chart_has_the_rates_of_its_shards_like_that_of_its_report(
    browse: Browse, database: Database, tmp_path: Path
) -> None:
    job = read(database, request(), [(f"k{n:04}", f"text {n:04}") for n in range(900)])
    for n in range(4):  # a worker held each for 100 s, and they ended at nearly the same moment
        claim = claim_next(database)
        shards.commit(database, claim, done(claim), None)
        set_shard(database, claim.shard_id, started_at=1_000.0, finished_at=1_100.0 + n / 10, tokens_in=10_000)
    jobs.finish(database)
    page = browse().get(f"/jobs/{job.id}?part=chart").text
    assert 350 < max(scale(page)) < 500  # 400 tokens/s
    status = read_status(database, job.id)
    write(tmp_path / "report.html", gather(database, status, with_text=False), None)
    assert scale((tmp_path / "report.html").read_text()) == scale(page)


def test_the_chart_of_a_job_that_is_gone_is_not_found(browse: Browse) -> None:
    assert browse().get("/jobs/9?part=chart").status_code == 404
