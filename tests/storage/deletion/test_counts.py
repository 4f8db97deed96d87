"""The counts of a collection: what it would drop and remove, while nothing is removed."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import OutcomeRow, db_now
from docmill.storage.deletion import gc, removal
from docmill.storage.deletion.paging import Removed
from docmill.storage.ingest import ingest
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs
from tests.storage.builders import (
    COPY,
    TRANSLATE,
    chunks,
    commit_next,
    done,
    failed,
    finish,
    numbered,
    read,
    request,
)
from tests.storage.steps.test_steps import Fleet, pipeline


def dropping(
    database: Database, older_than_s: float = 0.0, spec_ids: list[int] | None = None
) -> list[tuple[str, int]]:
    found = gc.count_old(database, older_than_s=older_than_s, spec_ids=spec_ids)
    return [(of_spec.spec, of_spec.outcomes) for of_spec in found]


def test_what_would_be_dropped_is_what_is_dropped(database: Database) -> None:
    read(database, request(), numbered(10))
    finish(database)
    read(database, request(spec=TRANSLATE), numbered(4))
    finish(database)
    old = update(OutcomeRow).where(OutcomeRow.content_id <= 2).values(created_at=db_now() - 1_000.0)
    database.execute(old)
    assert dropping(database) == [(str(COPY), 10), (str(TRANSLATE), 10)]
    assert dropping(database, older_than_s=500.0) == [(str(COPY), 2), (str(TRANSLATE), 2)]
    [spec_id] = gc.specs(database, "translate/marian")
    assert dropping(database, older_than_s=500.0, spec_ids=[spec_id]) == [(str(TRANSLATE), 2)]
    assert gc.drop(database, older_than_s=500.0, spec_ids=[spec_id]) == Removed(outcomes=2)
    assert dropping(database, older_than_s=500.0) == [(str(COPY), 2)]


def test_what_would_be_collected_is_what_is_collected(
    database: Database, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "LOOK", 3)
    fleet.done(pipeline(), numbered(5))
    assert gc.count_unneeded(database) == Removed()
    [spec_id] = gc.specs(database, "translate/marian")
    gone = OutcomeRow.__table__.delete().where(OutcomeRow.spec_id == spec_id)
    database.execute(gone)
    expected = gc.count_unneeded(database)
    assert expected.contents > 0
    assert expected.outcomes > 0
    assert gc.collect(database) == expected


def test_results_that_were_dropped_are_missed_in_the_status_of_a_done_job(database: Database, fleet: Fleet) -> None:
    first = fleet.done(pipeline(), numbered(5))
    other = read(database, request("b.jsonl", corpus="poems"), numbered(2, first=50))
    finish(database)
    assert read_status(database, first.id).lost == 0
    [spec_id] = gc.specs(database, "translate/marian")
    gc.drop(database, spec_ids=[spec_id])
    assert (read_status(database, first.id).lost, read_status(database, other.id).lost) == (5, 0)
    again = fleet.done(pipeline("c.jsonl"), numbered(2, first=60))
    # Its job covers all of the corpus, so everything is there again.
    assert (read_status(database, first.id).lost, read_status(database, again.id).lost) == (0, 0)


def test_documents_that_failed_or_were_removed_or_whose_job_goes_on_have_lost_nothing(database: Database) -> None:
    job = read(database, request(), numbered(6))
    commit_next(database, lambda claim: [*done(claim)[:3], *failed(claim)[3:]])
    jobs.finish(database)
    removal.remove_documents(database, "books", ["k0", "k5"])
    assert read_status(database, job.id).lost == 0
    gc.drop(database)
    assert read_status(database, job.id).lost == 4
    other = jobs.open_job(database, request("b.jsonl"))
    ingest.add(database, other, chunks(numbered(1), 1)[0])
    assert read_status(database, other.id).lost == 0
