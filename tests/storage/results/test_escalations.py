"""The numbers of an escalation: shares, results that are the better model's, and seconds."""

from __future__ import annotations

import pytest

from storage.core.database import Database
from storage.results.escalations import count_escalated, shared_seconds
from storage.results.provenance import provenance
from tests.storage.builders import set_shard, shards_of
from tests.storage.steps.test_escalation import ALONE, BEFORE_ANOTHER, LARGE, Models


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([("w", 0, 0.0, 10.0), ("w", 1, 10.0, 30.0)], {0: 10.0, 1: 20.0}),
        ([("w", 0, 0.0, 10.0), ("w", 1, 0.0, 10.0)], {0: 5.0, 1: 5.0}),  # at work together
        ([("w", 0, 0.0, 10.0), ("v", 1, 0.0, 10.0)], {0: 10.0, 1: 10.0}),  # in two processes
        ([("w", 0, 0.0, 10.0), ("w", 0, 0.0, 10.0), ("w", 1, 0.0, 10.0)], {0: 20 / 3, 1: 10 / 3}),
        ([("w", 0, 0.0, 4.0), ("w", 1, 2.0, 6.0), ("w", 1, 8.0, 9.0)], {0: 3.0, 1: 4.0}),
        ([], {}),
    ],
)
def test_shards_that_are_in_flight_together_share_the_time_of_their_process(
    spans: list[tuple[str, int, float, float]], seconds: dict[int, float]
) -> None:
    assert shared_seconds(spans) == pytest.approx(seconds)


def test_a_job_says_what_its_escalation_did_and_took(database: Database) -> None:
    models = Models(database)
    models.small = {"0": ("empty",), "2": ("empty",), "4": ("empty",)}
    models.large = {"4": ("empty", "repetition")}
    job = models.done()
    first, second = shards_of(database, job)
    set_shard(database, first.id, started_at=100.0, finished_at=106.0)
    set_shard(database, second.id, started_at=106.0, finished_at=118.0)
    (found,) = count_escalated(database, job.id).values()
    assert (found.texts, found.of, found.share, found.failed) == (3, 6, 0.5, 0)
    assert (found.won, found.documents, found.spec) == (2, 6, LARGE)
    assert found.seconds == 18.0
    assert found.alone_s == pytest.approx(24.0)


def test_a_run_that_computes_nothing_knows_no_seconds(database: Database) -> None:
    models = Models(database)
    models.done()
    (found,) = count_escalated(database, models.done().id).values()
    assert (found.texts, found.won) == (2, 2)
    assert found.alone_s is None
    plain = models.done(BEFORE_ANOTHER, source="b")
    assert [*count_escalated(database, plain.id)] == ["english"]


def test_the_provenance_of_a_doubted_result_has_both_outcomes(database: Database) -> None:
    models = Models(database)
    models.small = {"0": ("empty",), "2": ("empty",), "4": ("empty",)}
    models.large = {"4": ("empty", "repetition")}
    models.refused = "2"
    job = models.done(ALONE)
    won = provenance(database, job.id, "k0").step
    assert won.escalation is not None
    assert won.escalation.second_won
    assert (won.spec, won.outcome) == (LARGE, won.escalation.second)
    assert won.escalation.first.output == {"text": "marian(text 0)"}
    assert won.batch is not None
    assert won.batch.texts == 3
    for key, status in (("k2", "failed"), ("k4", "done")):
        kept = provenance(database, job.id, key).step
        assert kept.escalation is not None
        assert kept.escalation.second is not None
        assert kept.escalation.second.status == status
        assert (kept.spec, kept.outcome) == (ALONE[0].spec, kept.escalation.first)
    assert provenance(database, job.id, "k1").step.escalation is None
