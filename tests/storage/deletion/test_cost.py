"""The cost of a collection: results that it would drop are counted with their tokens, and nothing is removed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import OutcomeRow, Shard, db_now
from docmill.storage.deletion import cost, gc, removal
from docmill.storage.deletion.cost import RecomputeCost, busy_s
from docmill.storage.deletion.paging import Removed
from docmill.storage.ingest import ingest
from docmill.storage.leases import shards
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs
from tests.storage.builders import (
    COPY,
    TRANSLATE,
    chunks,
    claim_next,
    done,
    failed,
    finish,
    numbered,
    read,
    request,
)
from tests.storage.steps.test_steps import Fleet, fleet, pipeline

__all__ = ["fleet"]


def dropping(database: Database, **asked: object) -> list[tuple[str, int]]:
    _, costs = cost.forecast(database, **{"spec_ids": None, **asked})  # type: ignore[arg-type]
    return [(of_spec.spec, of_spec.outcomes) for of_spec in costs]


def test_what_would_be_dropped_is_what_is_dropped(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "LOOK", 3)
    read(database, request(), numbered(10))
    finish(database)
    read(database, request(spec=TRANSLATE), numbered(4))
    finish(database)
    old = update(OutcomeRow).where(OutcomeRow.content_id <= 2).values(created_at=db_now() - 1_000.0)
    database.write(lambda transaction: transaction.execute(old))
    assert dropping(database) == [(str(COPY), 10), (str(TRANSLATE), 10)]
    assert dropping(database, older_than_s=500.0) == [(str(COPY), 2), (str(TRANSLATE), 2)]
    [spec_id] = gc.specs(database, "translate/marian")
    assert dropping(database, older_than_s=500.0, spec_ids=[spec_id]) == [(str(TRANSLATE), 2)]
    assert gc.drop(database, older_than_s=500.0, spec_ids=[spec_id]) == Removed(outcomes=2)
    assert dropping(database, older_than_s=500.0) == [(str(COPY), 2)]


def test_the_time_is_that_of_the_specs_shards_by_their_tokens(database: Database) -> None:
    job = read(database, request(), numbered(4))
    finish(database)
    spans = update(Shard).where(Shard.job_id == job.id).values(started_at=100.0, finished_at=140.0, tokens_in=48)
    database.write(lambda transaction: transaction.execute(spans))
    _, [found] = cost.forecast(database, spec_ids=None)
    assert found == RecomputeCost(found.spec_id, str(COPY), 4, tokens_in=12, tokens_out=8, seconds=10.0)
    removal.remove_corpus(database, "books")
    assert dropping(database) == []


def test_what_was_made_of_dropped_results_is_counted_with_them(database: Database, fleet: Fleet) -> None:
    read(database, pipeline(), [*numbered(5), ("again", "translate(text 1)")])
    fleet.work()
    jobs.finish(database)
    [spec_id] = gc.specs(database, "translate/marian")
    goes, expected = cost.forecast(database, spec_ids=[spec_id])
    assert len(expected) == 3
    dropped = gc.drop(database, spec_ids=[spec_id])
    assert dropped.outcomes == sum(one.outcomes for one in expected)
    assert dropped + gc.collect(database) == goes


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=8))
def test_time_in_which_several_worked_counts_once(spans: list[tuple[int, int]]) -> None:
    seconds = {second for began, lasted in spans for second in range(began, began + lasted)}
    assert busy_s((began, began + lasted) for began, lasted in spans) == len(seconds)


def test_what_would_be_collected_is_what_is_collected(database: Database, fleet: Fleet) -> None:
    read(database, pipeline(), numbered(5))
    fleet.work()
    jobs.finish(database)
    assert cost.forecast(database) == (Removed(), [])
    [spec_id] = gc.specs(database, "translate/marian")
    gone = OutcomeRow.__table__.delete().where(OutcomeRow.spec_id == spec_id)
    database.write(lambda transaction: transaction.execute(gone))
    expected, _ = cost.forecast(database)
    assert expected.contents > 0
    assert expected.outcomes > 0
    assert gc.collect(database) == expected


def test_results_that_were_dropped_are_missed_in_the_status_of_a_done_job(database: Database, fleet: Fleet) -> None:
    first = read(database, pipeline(), numbered(5))
    fleet.work()
    jobs.finish(database)
    other = read(database, request("b.jsonl", corpus="poems"), numbered(2, first=50))
    finish(database)
    assert read_status(database, first.id).lost == 0
    [spec_id] = gc.specs(database, "translate/marian")
    gc.drop(database, spec_ids=[spec_id])
    assert (read_status(database, first.id).lost, read_status(database, other.id).lost) == (5, 0)
    again = read(database, pipeline("c.jsonl"), numbered(2, first=60))
    fleet.work()
    jobs.finish(database)
    # Its job covers all of the corpus, so everything is there again.
    assert (read_status(database, first.id).lost, read_status(database, again.id).lost) == (0, 0)


def test_documents_that_failed_or_were_removed_or_whose_job_goes_on_have_lost_nothing(database: Database) -> None:
    job = read(database, request(), numbered(6))
    claim = claim_next(database)
    shards.commit(database, claim, [*done(claim)[:3], *failed(claim)[3:]], None)
    jobs.finish(database)
    removal.remove_documents(database, "books", ["k0", "k5"])
    assert read_status(database, job.id).lost == 0
    gc.drop(database)
    assert read_status(database, job.id).lost == 4
    other = jobs.open_job(database, request("b.jsonl"))
    ingest.add(database, other, chunks(numbered(1), 1)[0])
    assert read_status(database, other.id).lost == 0
