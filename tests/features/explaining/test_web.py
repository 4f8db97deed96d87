"""The page about one document's result, and the links of other pages that lead to it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Outcome, Status
from docmill.storage.leases.shards import Claim
from tests.storage.builders import read, request, run_job
from tests.worker.web.conftest import Browse, browse
from tests.worker.web.pages.marked import SUMMARIZE, assert_harmless, marked_job

__all__ = ["browse"]


@pytest.mark.parametrize(("key", "says"), [("d0", "99 is not in"), ("f1", "a retry gives the same"), ("w1", "99")])
def test_a_document_is_explained(browse: Browse, database: Database, key: str, says: str) -> None:
    job = marked_job(database)
    page = browse().get(f"/jobs/{job}/document?id={key}").text
    assert_harmless(page)
    assert says in page
    assert "sha256:1" in page
    assert "<dt>Source</dt><dd><bdi>a.jsonl</bdi>, read " in page
    assert f'In job <a href="/jobs/{job}/document?id={key}">{job}</a> (' in page


def test_each_of_several_outputs_is_checked(browse: Browse, database: Database) -> None:
    texts = ["It began in 1914.", "It began in 1999."]

    def outcomes(claim: Claim) -> Sequence[Outcome]:
        flags = ("numbers_changed",)
        return [
            Outcome(content_id, Status.DONE, text=texts[0], data={"texts": texts}, flags=flags)
            for content_id, _ in claim.texts
        ]

    job = run_job(database, request(spec=SUMMARIZE), [("a", "In 1914 it began.")], outcomes)
    browser = browse()
    for path in ("document?id=a", "flagged"):
        page = browser.get(f"/jobs/{job.id}/{path}").text
        assert "It began in 1914.\n\nIt began in <mark>1999</mark>." in page
        assert "1999 is not in" in page


@pytest.mark.parametrize(("key", "written"), [("a b", "&#39;a b&#39;"), ("-x", "-- -x")])
def test_the_command_that_explains_a_document_can_be_copied(
    browse: Browse, database: Database, key: str, written: str
) -> None:
    job = read(database, request(spec=SUMMARIZE), [(key, "a text")])
    page = browse().get(f"/jobs/{job.id}/document", params={"id": key}).text
    assert f"<code>docmill explain {job.id} {written}</code>" in page


def test_a_document_that_is_not_there_is_not_found(browse: Browse, database: Database) -> None:
    job = marked_job(database)
    for query in ("id=none", "id=d0&step=none", "", "id=%00", "id=%ED%A0%80"):
        assert browse().get(f"/jobs/{job}/document?{query}").status_code == 404
    assert "There is no job 7" in browse().get("/jobs/7/document?id=x").text


@pytest.mark.parametrize(
    "path", ["/jobs/{job}/failures", "/jobs/{job}/flagged", "/jobs/{job}/samples", "/search?id=d0"]
)
def test_other_pages_link_to_the_page_of_a_document(browse: Browse, database: Database, path: str) -> None:
    job = marked_job(database)
    links = re.findall(r'<a href="(/jobs/[0-9]+/document[^"]+)"', browse().get(path.format(job=job)).text)
    assert links
    assert {browse().get(link.replace("&amp;", "&")).status_code for link in links} == {200}
