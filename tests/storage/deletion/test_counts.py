"""The counts of results and rows that a drop or a collection would delete."""

from __future__ import annotations

import pytest
from sqlalchemy import delete, update

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
    numbered,
    read,
    request,
    run_job,
)
from tests.storage.fleet import Fleet, pipeline


def count_old(
    database: Database, older_than_s: float = 0.0, spec_ids: list[int] | None = None
) -> list[tuple[str, int]]:
    """Return the number of results of each spec that a drop would delete."""
    counts = gc.count_old(database, older_than_s=older_than_s, spec_ids=spec_ids)
    return [(of_spec.spec, of_spec.outcomes) for of_spec in counts]


def test_a_drop_deletes_as_many_results_as_were_counted(database: Database) -> None:
    run_job(database, request(), numbered(10))
    run_job(database, request(spec=TRANSLATE), numbered(4))
    old = update(OutcomeRow).where(OutcomeRow.content_id <= 2).values(created_at=db_now() - 1_000.0)
    database.execute(old)
    assert count_old(database) == [(str(COPY), 10), (str(TRANSLATE), 10)]
    assert count_old(database, older_than_s=500.0) == [(str(COPY), 2), (str(TRANSLATE), 2)]
    [spec_id] = gc.specs(database, "translate/marian")
    assert count_old(database, older_than_s=500.0, spec_ids=[spec_id]) == [(str(TRANSLATE), 2)]
    assert gc.drop(database, older_than_s=500.0, spec_ids=[spec_id]) == Removed(outcomes=2)
    assert count_old(database, older_than_s=500.0) == [(str(COPY), 2)]


def test_a_collection_deletes_as_many_rows_as_were_counted(
    database: Database, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "LOOK", 3)
    fleet.run_job(pipeline(), numbered(5))
    assert gc.count_unneeded(database) == Removed()
    [spec_id] = gc.specs(database, "translate/marian")
    database.execute(delete(OutcomeRow).where(OutcomeRow.spec_id == spec_id))
    expected = gc.count_unneeded(database)
    assert expected.contents > 0
    assert expected.outcomes > 0
    assert gc.collect(database) == expected


def test_the_status_of_a_done_job_counts_dropped_results_as_lost(database: Database, fleet: Fleet) -> None:
    first = fleet.run_job(pipeline(), numbered(5))
    untouched = run_job(database, request("b.jsonl", corpus="poems"), numbered(2, first=50))
    assert read_status(database, first.id).lost == 0
    [spec_id] = gc.specs(database, "translate/marian")
    gc.drop(database, spec_ids=[spec_id])
    assert (read_status(database, first.id).lost, read_status(database, untouched.id).lost) == (5, 0)
    again = fleet.run_job(pipeline("c.jsonl"), numbered(2, first=60))
    # Its job covers all of the corpus, so everything is there again.
    assert (read_status(database, first.id).lost, read_status(database, again.id).lost) == (0, 0)


def test_failed_and_removed_documents_and_those_of_an_unfinished_job_are_not_lost(database: Database) -> None:
    job = read(database, request(), numbered(6))
    commit_next(database, lambda claim: [*done(claim)[:3], *failed(claim)[3:]])
    jobs.finish(database)
    removal.remove_documents(database, "books", ["k0", "k5"])
    assert read_status(database, job.id).lost == 0
    gc.drop(database)
    assert read_status(database, job.id).lost == 4
    unfinished = jobs.open_job(database, request("b.jsonl"))
    ingest.add(database, unfinished, chunks(numbered(1), 1)[0])
    assert read_status(database, unfinished.id).lost == 0
