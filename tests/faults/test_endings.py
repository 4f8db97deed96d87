"""Jobs that are cancelled while they run, enqueues that race or die, exports that are cut short."""

from __future__ import annotations

import json

from docmill.storage.core.schema import Document, Shard
from docmill.storage.ingest.chunks import CHUNK_RECORDS
from tests.fault_points import FAULT
from tests.faults.checker import read_books
from tests.faults.fleet import SHARD_TEXTS, Fleet, numbered
from tests.storage.builders import at_once, count_rows
from tests.worker.harness import DEADLINE_S, until


def test_a_cancelled_job_stops_keeps_what_is_done_and_takes_no_late_result(fleet: Fleet) -> None:
    job = fleet.give(numbered(8 * SHARD_TEXTS), model="null@200")
    urgent = fleet.give(numbered(SHARD_TEXTS), priority=-1)
    with fleet.worker(fault="batch:hang@2"):
        until(fleet.strikes, "one batch is finished, and the next waits")
        fleet.wait_until_busy()
        assert fleet.json("cancel", job)["cancelled"]
        states = {row.state for row in fleet.shards(Shard.job_id, Shard.state) if row.job_id == job}
        # A top-up that was under way may still put some into the queue, where nobody claims them.
        assert states <= {"planned", "queued", "done"}
        statuses = read_books(fleet.database, job).statuses
        fleet.release()
        fleet.finish(urgent)  # the threads are free again
        assert not fleet.json("cancel", job)["cancelled"]
    fleet.finish(job, state="cancelled")
    assert read_books(fleet.database, job).statuses == statuses
    assert "lease_lost" in fleet.log("worker")
    assert fleet("status", job, "--wait", code=1).returncode == 1


def test_an_enqueue_that_was_killed_is_carried_on_by_the_same_command_without_doubles(fleet: Fleet) -> None:
    n = CHUNK_RECORDS + 1000  # three chunks, the first of which is small
    enqueue = ("enqueue", "translate", fleet.corpus(numbered(n)), "--model", "null")
    with fleet.variables(**{FAULT: "enqueue:kill@2"}):
        assert fleet.start(*enqueue).wait(DEADLINE_S) < 0
    assert fleet.strikes()
    continued = fleet.json(*enqueue)
    assert (continued["id"], continued["adopted"], continued["documents"]) == (1, True, n)
    repeated = fleet.json(*enqueue)
    assert (repeated["id"], repeated["counts"]["new"], repeated["counts"]["planned"]) == (1, 0, 0)
    assert sum(row.n_contents for row in fleet.shards(Shard.n_contents)) == n


def test_two_enqueues_of_one_corpus_at_once_make_one_job_with_each_document_once(fleet: Fleet) -> None:
    n = 3000
    enqueue = ("enqueue", "translate", fleet.corpus(numbered(n)), "--model", "null")
    first, second = at_once(lambda: fleet.json(*enqueue), lambda: fleet.json(*enqueue))
    assert {first["documents"], second["documents"]} == {n}
    assert first["id"] == second["id"]
    assert sum(row.n_contents for row in fleet.shards(Shard.n_contents)) == n
    assert count_rows(fleet.database, Document) == n


def test_an_export_that_is_killed_leaves_nothing_half_written_at_its_path(fleet: Fleet) -> None:
    n = 2 * SHARD_TEXTS
    job = fleet.give(numbered(n))
    with fleet.worker():
        fleet.finish(job)
    out = fleet.folder / "out.jsonl"
    out.write_text("an earlier export\n")
    with fleet.variables(**{FAULT: "export:kill@50"}):
        assert fleet.start("results", job, "--out", out).wait(DEADLINE_S) < 0
    assert out.read_text() == "an earlier export\n"
    fleet("results", job, "--out", out)
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [str(i) for i in range(n)]
    parts = ("results", job, "--part-documents", 30, "--out", "parts")
    assert "Wrote 128 results to parts (JSON lines), in 5 parts." in fleet(*parts).stderr
    assert "is complete: 128 results in 5 parts. Nothing was written." in fleet(*parts).stderr
    (fleet.folder / "parts" / "part-00001.jsonl").unlink()
    assert "Wrote 1 part to parts (JSON lines), which is complete: 128 results in 5 parts." in fleet(*parts).stderr
