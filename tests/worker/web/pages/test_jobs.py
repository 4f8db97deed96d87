"""The page of jobs."""

from __future__ import annotations

import re

import pytest
from starlette.testclient import TestClient

from docmill.storage.core.database import Database
from docmill.storage.ingest import ingest
from docmill.storage.readers import Rejection
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs
from docmill.storage.steps.steps import StepRequest
from docmill.worker.web.pages.jobs import ROWS
from tests.storage.builders import (
    TRANSLATE,
    finish,
    make_chunk,
    numbered,
    read,
    records,
    request,
    work,
)
from tests.worker.web.conftest import Browse
from tests.worker.web.pages.marked import HOSTILE, SCRIPT, SUMMARIZE, assert_harmless, marked_job, outcomes
from tests.worker.web.test_site import signed_in_form


def numbers(page: str) -> list[int]:
    return [int(number) for number in re.findall(r'id="job-(\d+)"', page)]


def test_jobs_stand_newest_first_with_their_counts_and_hostile_names_as_text(
    browse: Browse, database: Database
) -> None:
    read(database, request(corpus="first"), numbered(3))
    finish(database)
    read(database, request(corpus=SCRIPT), numbered(7, first=10))
    page = browse().get("/jobs").text
    assert numbers(page) == [2, 1]
    assert "&lt;script&gt;alert(1)&lt;/script&gt; [U+202E]&#34;onload=x [U+001B][31m" in page
    assert_harmless(page)
    assert re.search(r"<b>3</b> of 3 done", page)
    assert re.search(r"<b>0</b> of 7 done", page)
    assert "No live worker serves lane" in page


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


@pytest.mark.parametrize(("state", "expected"), [("open", [3]), ("paused", [2]), ("cancelled", [1]), ("done", [])])
def test_jobs_of_one_state_alone(browse: Browse, database: Database, state: str, expected: list[int]) -> None:
    for n in range(3):
        read(database, request(f"{n}.jsonl"), numbered(2, first=n))
    jobs.cancel(database, 1)
    jobs.pause(database, 2)
    page = browse().get(f"/jobs?state={state}").text
    assert numbers(page) == expected
    assert re.search(rf'state={state}" aria-current="true"', page)


def test_an_unknown_job_is_not_found(browse: Browse) -> None:
    for path in ("", "/failures", "/flagged", "/samples"):
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
    finish(database)
    jobs.finish(database, read(database, request("empty.jsonl"), []).id)
    for number in (job.id, job.id + 1):  # one of them without texts
        answer = browser.get(f"/jobs/{number}?part=progress")
        assert "100 %" in answer.text
    assert answer.headers["hx-refresh"] == "true"  # the page of an ended job asks for nothing again
    for path in ("/pipelines", "/queue", "/workers"):
        assert f'hx-get="{path}?part=rows"' in browser.get(path).text


def test_failures_stand_by_reason_with_their_documents(browse: Browse, database: Database) -> None:
    job = marked_job(database)
    page = browse().get(f"/jobs/{job}/failures").text
    assert_harmless(page)
    rows = re.findall(r"<tr><td>(.*?)</td>.*?class=\"count\">(\d+)</td></tr>", page, re.DOTALL)
    assert [n for _, n in rows] == ["2", "1"]
    assert re.findall(r"<bdi>(f\d)</bdi>", rows[0][0]) == ["f1", "f2"]
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
    ingest.add(database, job, make_chunk(), [Rejection(f"a.jsonl:{n}", f"{HOSTILE} not JSON") for n in (2, 3)])
    ingest.end(database, job)
    page = browser.get(f"/jobs/{job.id}/failures").text
    assert_harmless(page)
    assert everything not in page
    assert "a.jsonl:2" in page
    assert re.findall(r"class=\"count\">(\d+)</td></tr>", page) == ["2"]


def test_failures_behind_many_of_earlier_versions_are_not_denied(
    browse: Browse, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docmill.storage.results.marked.LOOKED_AT", 20)
    monkeypatch.setattr("docmill.storage.results.marked._PAGE", 10)
    for corrected in (0, 29):
        texts = [(f"k{n}", f"{'D' if n < corrected else 'F'} {n} {corrected}") for n in range(30)]
        job = read(database, request(spec=SUMMARIZE), texts)
        finish(database, outcomes)
    page = browse().get(f"/jobs/{job.id}/failures").text
    assert "Every text that was computed has a result" not in page
    assert f"docmill failures {job.id}" in page
    assert f"docmill retry {job.id}" in page


def test_flagged_outputs_stand_beside_their_inputs(browse: Browse, database: Database) -> None:
    job = marked_job(database)
    browser = browse()
    page = browser.get(f"/jobs/{job}/flagged").text
    assert_harmless(page)
    assert re.findall(r"<bdi>([dw]\d)</bdi>", page) == ["d0", "d1", "w1"]
    assert "<mark>99</mark>" in page
    assert "numbers changed&nbsp;" in page
    assert "99 is not in the input." in page
    page = browser.get(f"/jobs/{job}/flagged?flag=windowed").text
    assert re.findall(r"<bdi>([dw]\d)</bdi>", page) == ["w1"]
    assert "<mark>" not in page


def test_the_flagged_outputs_are_those_of_the_last_step_that_has_some(browse: Browse, database: Database) -> None:
    steps = (StepRequest("brief", SUMMARIZE), StepRequest("german", TRANSLATE, "brief"))
    job = read(database, request(steps=steps), [("d", "D in 1914")])
    finish(database, outcomes)
    browser, address = browse(), f"/jobs/{job.id}/flagged"
    assert "<bdi>d</bdi>" in browser.get(address).text
    assert "No output of this step carries a flag." in browser.get(f"{address}?step=german").text


def test_flags_to_choose_are_those_of_outputs(
    browse: Browse, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.open_job(database, request(spec=SUMMARIZE))
    ingest.add(database, job, make_chunk(("a", "D1", {}, ("recognized",), 0), ("b", "W1", {}, (), 1)))
    work(database, outcomes)
    browser, address = browse(), f"/jobs/{job.id}/flagged"
    assert re.findall("flag=([a-z_]+)", browser.get(address).text) == ["numbers_changed", "windowed"]
    monkeypatch.setattr("docmill.worker.web.pages.outputs.MOST_COUNTED", 1)
    choices = re.findall('<option value="([a-z_]+)"', browser.get(address).text)
    assert {"numbers_changed", "windowed"} < {*choices}
    assert not {"recognized", "language"} & {*choices}


@pytest.mark.parametrize("query", ["flag=<b>", "step=none", "after=1", "after=0-0-x", "after=9-9-9", "after=1-0-5"])
def test_a_wrong_place_is_refused(browse: Browse, database: Database, query: str) -> None:
    job = marked_job(database)
    assert browse().get(f"/jobs/{job}/flagged?{query}").status_code == 400


def post(browser: TestClient, job: int, change: str, **form: str) -> str:
    """Post a form of a job's page, and return what the next page says was done."""
    token = signed_in_form(browser.get(f"/jobs/{job}").text) or signed_in_form(browser.get("/sign-in").text)
    answer = browser.post(f"/jobs/{job}/{change}", data={"form_token": token, **form})
    assert answer.status_code == 303
    page = browser.get(answer.headers["location"]).text
    message = page.partition('role="status">')[2].partition("<")[0]
    assert message not in browser.get(answer.headers["location"]).text  # once
    return message


def test_a_job_is_paused_resumed_ordered_and_cancelled(browse: Browse, database: Database) -> None:
    job = read(database, request(), numbered(2)).id
    browser = browse(allows_changes=True)
    assert post(browser, job, "pause") == f"Job {job} is paused."
    assert read_status(database, job).state == "paused"
    assert post(browser, job, "resume") == f"Job {job} is resumed."
    assert read_status(database, job).state == "running"
    assert post(browser, job, "priority", priority="-3") == f"Job {job} is at priority -3."
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
