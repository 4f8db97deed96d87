"""Documents that break their processes fail, and all others have results."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from docmill.storage.core.schema import Content, OutcomeRow, Shard
from docmill.storage.results.status import JobStatus
from tests.fault_points import MARKER
from tests.faults.fleet import SHARD_TEXTS, Fleet, numbered
from tests.worker.harness import until

POISON = f"{MARKER} this one breaks what computes it"


def with_poison(n: int, at: int) -> list[str]:
    return [POISON if i == at else text for i, text in enumerate(numbered(n))]


def only_the_poison_failed(fleet: Fleet, status: JobStatus, n: int) -> tuple[str | None, str]:
    """Assert that only the poison failed, and return its failure's class and reason."""
    query = select(Content.text, OutcomeRow.reason_class, OutcomeRow.reason).where(OutcomeRow.status == "failed")
    [row] = fleet.database.rows(query.join(Content, Content.id == OutcomeRow.content_id))
    assert (status.done, status.failed) == (n - 1, 1)
    assert row.text == POISON
    return row.reason_class, row.reason or ""


ONCE_ON_EACH_STORE = pytest.mark.parametrize(
    ("database_url", "point"), [("sqlite", "text"), ("postgresql", "cut")], indirect=["database_url"]
)


@ONCE_ON_EACH_STORE
def test_a_document_that_kills_its_process_fails_on_its_second_death_alone_and_no_other_does(
    fleet: Fleet, point: str
) -> None:
    n = SHARD_TEXTS
    job = fleet.give(with_poison(n, at=n - 1))
    healthy = fleet.give(numbered(SHARD_TEXTS, first=1000))
    with fleet.worker(fault=f"{point}:kill"):
        status = fleet.finish(job)
        assert fleet.finish(healthy).done == SHARD_TEXTS
    reason_class, reason = only_the_poison_failed(fleet, status, n)
    assert (reason_class, "killed its process twice" in reason) == ("document", True)
    # Among others, in a part of its shard, by itself, and once more: nobody is blamed for less.
    assert len(fleet.strikes()) == 4
    assert max(row.suspect for row in fleet.shards(Shard.suspect)) == 2


@ONCE_ON_EACH_STORE
def test_a_document_that_hangs_is_found_by_the_watchdog_and_fails_as_one_that_kills(fleet: Fleet, point: str) -> None:
    job = fleet.give(with_poison(3, at=2))
    with fleet.worker(fault=f"{point}:hang", hang_s=0.5, batch_limit_s=0.5):
        status = fleet.finish(job)
    assert only_the_poison_failed(fleet, status, 3)[0] == "document"
    assert len(fleet.strikes()) == 3
    assert fleet.log("worker").count("_hangs device=cpu") == 3


def test_a_shard_whose_error_no_document_caused_is_tried_again(fleet: Fleet) -> None:
    job = fleet.give(numbered(2 * SHARD_TEXTS))
    with fleet.worker(fault="computed:error"):
        until(fleet.strikes, "a thread failed between its work and its commit")
        until(lambda: "done" in fleet.states(), "the other shard is done")
        fleet.set_shards(not_before=0.0)  # it backs off: that time is moved, not waited for
        assert fleet.finish(job).done == 2 * SHARD_TEXTS
    assert sorted(row.attempt for row in fleet.shards(Shard.attempt)) == [1, 2]
