"""Files of a job's results, as a browser saves them."""

from __future__ import annotations

import csv
import json
from io import BytesIO, StringIO

import pytest
from python_calamine import CalamineWorkbook

from docmill.storage.core.database import Database
from docmill.worker.web.pages import jobs
from tests.storage.builders import numbered, read, request
from tests.worker.web.conftest import Browse
from tests.worker.web.pages.marked import marked_job


def test_results_are_saved_in_each_format_that_the_page_offers(browse: Browse, database: Database) -> None:
    job = marked_job(database)
    browser = browse()
    page = browser.get(f"/jobs/{job}").text
    files = {}
    for suffix in (".xlsx", ".csv", ".jsonl"):
        assert f'href="/jobs/{job}/results{suffix}"' in page
        answer = browser.get(f"/jobs/{job}/results{suffix}")
        assert answer.headers["content-disposition"] == f'attachment; filename="summarize-{job}{suffix}"'
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        files[suffix] = answer.content
    lines = [json.loads(line) for line in files[".jsonl"].splitlines()]
    assert lines[0]["input"] == "D0 in 1914"
    ids = {line["id"] for line in lines}
    cells = [row[0] for row in csv.reader(StringIO(files[".csv"].decode("utf-8-sig")))]
    assert ids <= set(cells)
    assert CalamineWorkbook.from_filelike(BytesIO(files[".xlsx"])).get_sheet_by_index(0).height == len(cells)


def test_other_files_are_not_there_nor_those_of_a_job_that_goes_on_or_is_too_large(
    browse: Browse, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = marked_job(database)
    open_job = read(database, request(corpus="open"), numbered(3)).id
    browser = browse()
    for suffix in (".npy", ".parquet", "", ".csv.gz"):
        assert browser.get(f"/jobs/{job}/results{suffix}").status_code == 404
    assert browser.get(f"/jobs/{open_job}/results.csv").status_code == 404
    monkeypatch.setattr(jobs, "MOST_DOCUMENTS", 2)
    assert browser.get(f"/jobs/{job}/results.csv").status_code == 404
    assert f"docmill results {job} --out FILE" in browser.get(f"/jobs/{job}").text
    assert browser.get("/jobs/99/results.csv").status_code == 404


def test_no_file_is_written_for_a_link_of_another_site(browse: Browse, database: Database) -> None:
    path = f"/jobs/{marked_job(database)}/results.csv"
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert browse().get(path, headers=link).status_code == 403
