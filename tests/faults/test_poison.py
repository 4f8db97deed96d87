"""Documents that break whatever computes them: they fail, and everybody else's results are there."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from storage.export.results import failures
from storage.schema import Content, OutcomeRow, Shard
from storage.status import JobStatus
from tests.faults.mill import SHARD_TEXTS, Mill, numbered
from tests.worker.harness import until
from worker.faultpoints import MARKER

POISON = f"{MARKER} this one breaks what computes it"


def with_poison(n: int, at: int) -> list[str]:
    return [POISON if i == at else text for i, text in enumerate(numbered(n))]


def only_the_poison_failed(mill: Mill, status: JobStatus, n: int) -> tuple[str | None, str]:
    """The class and the reason of its failure."""
    query = select(Content.text, OutcomeRow.reason_class, OutcomeRow.reason).where(OutcomeRow.status == "failed")
    with mill.database.read() as connection:
        [row] = connection.execute(query.join(Content, Content.id == OutcomeRow.content_id)).all()
    assert (status.done, status.failed) == (n - 1, 1)
    assert row.text == POISON
    return row.reason_class, row.reason or ""


ONCE_ON_EACH_STORE = pytest.mark.parametrize(
    ("database_url", "point"), [("sqlite", "text"), ("postgresql", "cut")], indirect=["database_url"]
)


@ONCE_ON_EACH_STORE
def test_a_document_that_kills_its_process_fails_on_its_second_death_alone_and_no_other_does(
    mill: Mill, point: str
) -> None:
    n = SHARD_TEXTS
    job = mill.give(with_poison(n, at=n - 1))
    healthy = mill.give(numbered(SHARD_TEXTS, first=1000))
    with mill.worker(fault=f"{point}:kill"):
        status = mill.finish(job)
        assert mill.finish(healthy).done == SHARD_TEXTS
    reason_class, reason = only_the_poison_failed(mill, status, n)
    assert (reason_class, "killed its process twice" in reason) == ("document", True)
    # Among others, alone in its shard, in the parts of it down to itself, and once more: nobody is blamed for less.
    assert len(mill.strikes()) == 5
    assert max(row.suspect for row in mill.shards(Shard.suspect)) == 2


@ONCE_ON_EACH_STORE
def test_a_document_that_hangs_is_found_by_the_watchdog_and_fails_as_one_that_kills(mill: Mill, point: str) -> None:
    job = mill.give(with_poison(3, at=2))
    with mill.worker(fault=f"{point}:hang", hang_s=0.5, batch_limit_s=0.5):
        status = mill.finish(job)
    assert only_the_poison_failed(mill, status, 3)[0] == "document"
    assert len(mill.strikes()) == 4
    assert mill.log("worker").count("_hangs device=cpu") == 4


def test_a_batch_that_does_not_fit_in_memory_is_halved_and_a_document_that_never_does_fails(mill: Mill) -> None:
    texts = [*numbered(100), "word " * 200, *numbered(27, first=100)]
    job = mill.give(texts)
    with mill.worker(fault="text:oom@128"):  # a batch of 64 texts has 576 tokens
        status = mill.finish(job)
    assert (status.done, status.failed) == (127, 1)
    [failure] = failures(mill.database, job)
    assert (failure["id"], failure["class"]) == ("100", "document")
    assert "does not fit in the device's memory, even alone" in failure["reason"]
    assert {row.attempt for row in mill.shards(Shard.attempt)} == {1}, "the shard is not tried again for it"


def test_a_vector_that_is_not_a_number_fails_its_document_and_is_not_stored(mill: Mill) -> None:
    job = mill.give(with_poison(20, at=7), task="embed")
    with mill.worker(fault="text:nan"):
        status = mill.finish(job)
    reason_class, reason = only_the_poison_failed(mill, status, 20)
    assert (reason_class, "not finite" in reason) == ("model", True)
    with mill.database.read() as connection:
        vectors = list(connection.scalars(select(OutcomeRow.vector).where(OutcomeRow.status == "failed")))
    assert vectors == [None]


def test_an_error_that_is_nobodys_document_is_tried_again_and_blames_nobody(mill: Mill) -> None:
    job = mill.give(numbered(2 * SHARD_TEXTS))
    with mill.worker(fault="computed:error"):
        until(mill.strikes, "a thread failed between its work and its commit")
        until(lambda: "done" in mill.states(), "the other shard is done")
        mill.set_shards(not_before=0.0)  # it backs off: that time is moved, not waited for
        assert mill.finish(job).done == 2 * SHARD_TEXTS
    assert sorted(row.attempt for row in mill.shards(Shard.attempt)) == [1, 2]
