"""The page of search, with the model `null`, which computes vectors without weights."""

from __future__ import annotations

import re

import numpy as np
import pytest

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Outcome, Spec, Status
from docmill.storage.leases.shards import Claim
from docmill.tasks.kinds import STORED_KINDS
from docmill.tasks.models.weightless import NULL, NULL_REVISION
from docmill.worker.engines import running
from docmill.worker.jobs import search
from docmill.worker.settings import Settings
from tests.storage.builders import finish, numbered, read, request
from tests.worker.web.conftest import Browse
from tests.worker.web.pages.marked import SCRIPT, assert_harmless

SPEC = Spec("embed", NULL, NULL_REVISION)


def embed(database: Database, settings: Settings) -> None:
    def vectors(claim: Claim) -> list[Outcome]:
        with running(settings, "cpu") as engine:
            outputs = search.embed(engine, SPEC, [text for _, text in claim.texts])
        packed = [np.asarray(getattr(output, "values"), np.float32).tobytes() for output in outputs]  # noqa: B009
        return [
            Outcome(content_id, Status.DONE, vector=vector)
            for (content_id, _), vector in zip(claim.texts, packed, strict=True)
        ]

    read(database, request(corpus=SCRIPT, spec=SPEC), [*numbered(3), (SCRIPT, "a hostile <b>text</b>")])
    finish(database, vectors)


def test_hits_link_to_their_documents(browse: Browse, database: Database, settings: Settings) -> None:
    assert "embed" in STORED_KINDS
    embed(database, settings)
    browser = browse()
    page = browser.get("/search").text
    assert page.count("<option") == 1
    page = browser.get("/search", params={"text": "text 1", "corpus": SCRIPT}).text
    assert page.count('<span class="soft number"') == 4
    assert "<b>text</b>" not in page
    assert_harmless(page)
    assert "There is no corpus books" in browser.get("/search?corpus=books&text=x").text
    assert browser.get("/search", params={"text": "x" * 2_001}).status_code == 400


def test_a_search_that_lacks_an_extra_says_what_to_install(
    browse: Browse, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(database, settings)
    monkeypatch.setattr("docmill.storage.extras.find_spec", lambda _: None)
    page = browse().get("/search?text=x").text
    assert "Computing on this machine needs the models" in page
    assert "does not answer" not in page


def test_a_link_of_another_site_fills_the_form_and_loads_no_model(
    browse: Browse, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(database, settings)
    searched: list[str] = []
    monkeypatch.setattr("docmill.worker.web.pages.outputs.search", lambda _, corpus, text: searched.append(text))
    browser = browse()
    for site in ("cross-site", "same-site"):
        headers = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
        page = browser.get("/search?text=near", headers=headers).text
        assert 'value="near"' in page
        assert "Press Search" in page
    assert not searched
    for site in ("none", "same-origin"):
        browser.get("/search?text=near", headers={"sec-fetch-site": site})
    assert searched == ["near", "near"]


def test_a_document_is_found_by_its_id_with_its_source_and_jobs(browse: Browse, database: Database) -> None:
    job = read(database, request(corpus=SCRIPT), [(SCRIPT, "a text"), (" k ", "another")])
    browser = browse()
    assert "A document by its id" in browser.get("/search").text
    page = browser.get("/search", params={"id": SCRIPT}).text
    assert "From <bdi>a.jsonl</bdi>, read " in page
    assert re.search(rf"In job .*{job.id}.* \(running\)", page)
    assert_harmless(page)
    assert "No document has this id" in browser.get("/search?id=nothing").text
    assert "From <bdi>" in browser.get("/search", params={"id": " k "}).text
    assert browser.get("/search", params={"id": "x" * 2_001}).status_code == 400
