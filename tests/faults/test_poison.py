"""Documents that break their processes fail, and all others have results."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from docmill.storage.core.schema import Content, OutcomeRow, Shard
from docmill.storage.results.results import failures
from docmill.storage.results.status import JobStatus
from tests.fault_points import MARKER
from tests.faults.fleet import SHARD_TEXTS, THREADS, Fleet, numbered
from tests.tasks import decoders
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


def test_a_batch_that_does_not_fit_in_memory_is_halved_and_a_document_that_never_does_fails(fleet: Fleet) -> None:
    texts = [*numbered(100), "word " * 200, *numbered(27, first=100)]
    job = fleet.give(texts)
    with fleet.worker(fault="text:oom@128"):  # a batch of 64 texts has 576 tokens
        status = fleet.finish(job)
    assert (status.done, status.failed) == (127, 1)
    [failure] = failures(fleet.database, job)
    assert (failure["id"], failure["class"]) == ("100", "document")
    assert "does not fit in the device's memory, even alone" in failure["reason"]
    assert {row.attempt for row in fleet.shards(Shard.attempt)} == {1}, "the shard is not tried again for it"


def test_a_kernel_that_fails_on_the_device_costs_a_process_and_no_document(fleet: Fleet) -> None:
    job = fleet.give(numbered(4 * SHARD_TEXTS))
    with fleet.worker(fault="batch:cuda"):
        status = fleet.finish(job)
        assert len(fleet.live()) == 1
    assert (status.done, status.failed) == (4 * SHARD_TEXTS, 0)
    assert "an illegal memory access was encountered" in fleet.log("worker")
    assert fleet.log("worker").count("device_died") == 1
    suspects = [row for row in fleet.shards(Shard.n_contents, Shard.suspect) if row.suspect]
    assert 0 < sum(row.n_contents for row in suspects) <= THREADS * SHARD_TEXTS, "those in flight, and no others"


def test_a_vector_that_is_not_a_number_fails_its_document_and_is_not_stored(fleet: Fleet) -> None:
    job = fleet.give(with_poison(20, at=7), task="embed")
    with fleet.worker(fault="text:nan"):
        status = fleet.finish(job)
    reason_class, reason = only_the_poison_failed(fleet, status, 20)
    assert (reason_class, "not finite" in reason) == ("model", True)
    vectors = select(OutcomeRow.vector).where(OutcomeRow.status == "failed")
    assert fleet.database.values(vectors) == [None]


def test_a_shard_whose_error_no_document_caused_is_tried_again(fleet: Fleet) -> None:
    job = fleet.give(numbered(2 * SHARD_TEXTS))
    with fleet.worker(fault="computed:error"):
        until(fleet.strikes, "a thread failed between its work and its commit")
        until(lambda: "done" in fleet.states(), "the other shard is done")
        fleet.set_shards(not_before=0.0)  # it backs off: that time is moved, not waited for
        assert fleet.finish(job).done == 2 * SHARD_TEXTS
    assert sorted(row.attempt for row in fleet.shards(Shard.attempt)) == [1, 2]


def test_a_nul_that_a_model_writes_is_mended_and_flagged_and_fails_no_neighbour(fleet: Fleet) -> None:
    fleet.loads_models = True
    model = decoders.nul_after_a_bang(fleet.folder / "model", numbered(50))
    texts = [*numbered(5), "Here it comes!", *numbered(10, first=5)]
    options = ("--prompt", "{text}", "--max-new-tokens", 4, "--model", model)
    job = fleet.enqueue("generate", fleet.corpus(texts), *options)
    with fleet.worker():
        status = fleet.finish(job)
    assert (status.done, status.failed) == (16, 0)
    outputs = {row["id"]: (row["text"], row["flags"]) for row in fleet.results(job)}
    mended = outputs.pop("5")
    assert mended[0] == "\ufffdxxx"
    assert "output_nul_replaced" in mended[1]
    assert {text for text, _ in outputs.values()} == {"xxxx"}
    assert not any("output_nul_replaced" in flags for _, flags in outputs.values())
    assert {row.attempt for row in fleet.shards(Shard.attempt)} == {1}
    assert "shard_failed" not in fleet.log("worker")
