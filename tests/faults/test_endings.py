"""Jobs that are cancelled while they run, enqueues that race or die, exports that are cut short."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

from docmill.storage.core.schema import Document, Shard
from docmill.storage.ingest.chunks import CHUNK_RECORDS
from docmill.storage.results.status import read_status
from tests.fault_points import FAULT
from tests.faults.checker import read_books
from tests.faults.fleet import SHARD_TEXTS, THREADS, Fleet, numbered
from tests.storage.builders import at_once
from tests.storage.readers.site import serving
from tests.worker.harness import DEADLINE_S, kill_group, until

N = 300  # half of them are less than a first chunk


def test_a_cancelled_job_stops_keeps_what_is_done_and_takes_no_late_result(fleet: Fleet) -> None:
    job = fleet.give(numbered(8 * SHARD_TEXTS), model="null@200")
    other = fleet.give(numbered(SHARD_TEXTS), priority=-1)
    with fleet.worker(fault="batch:hang@2"):
        until(fleet.strikes, "one batch is finished, and the next waits")
        until(lambda: fleet.states()["running"] == THREADS, "every thread has a shard")
        assert fleet.json("cancel", job)["cancelled"]
        states = {row.state for row in fleet.shards(Shard.job_id, Shard.state) if row.job_id == job}
        # A top-up that was under way may still put some into the queue, where nobody claims them.
        assert states <= {"planned", "queued", "done"}
        kept = read_books(fleet.database, job).statuses
        fleet.release()
        fleet.finish(other)  # the threads are free again
        assert not fleet.json("cancel", job)["cancelled"]
    fleet.finish(job, state="cancelled")
    assert read_books(fleet.database, job).statuses == kept
    assert "lease_lost" in fleet.log("worker")
    assert fleet("status", job, "--wait", code=1).returncode == 1


def test_an_enqueue_that_was_killed_is_carried_on_by_the_same_command_without_doubles(fleet: Fleet) -> None:
    n = CHUNK_RECORDS + 1000  # three chunks, the first of which is small
    enqueue = ("enqueue", "translate", fleet.corpus(numbered(n)), "--model", "null")
    fleet.environment[FAULT] = "enqueue:kill@2"
    killed = fleet.start(*enqueue)
    assert killed.wait(DEADLINE_S) < 0
    assert fleet.strikes()
    del fleet.environment[FAULT]
    done = fleet.json(*enqueue)
    assert (done["id"], done["adopted"], done["documents"]) == (1, True, n)
    again = fleet.json(*enqueue)
    assert (again["id"], again["counts"]["new"], again["counts"]["planned"]) == (1, 0, 0)
    assert sum(row.n_contents for row in fleet.shards(Shard.n_contents)) == n


def test_two_enqueues_of_one_corpus_at_once_make_one_job_with_each_document_once(fleet: Fleet) -> None:
    n = 3000
    enqueue = ("enqueue", "translate", fleet.corpus(numbered(n)), "--model", "null")
    one, other = at_once(lambda: fleet.json(*enqueue), lambda: fleet.json(*enqueue))
    assert {one["documents"], other["documents"]} == {n}
    assert one["id"] == other["id"]
    assert sum(row.n_contents for row in fleet.shards(Shard.n_contents)) == n
    with fleet.database.read() as transaction:
        assert len(transaction.execute(Document.__table__.select()).all()) == n


def test_an_export_that_is_killed_leaves_nothing_half_written_at_its_path(fleet: Fleet) -> None:
    n = 2 * SHARD_TEXTS
    job = fleet.give(numbered(n))
    with fleet.worker():
        fleet.finish(job)
    out = fleet.folder / "out.jsonl"
    out.write_text("an earlier export\n")
    fleet.environment[FAULT] = "export:kill@50"
    killed = fleet.start("results", job, "--out", out)
    assert killed.wait(DEADLINE_S) < 0
    assert out.read_text() == "an earlier export\n"
    fleet("results", job, "--out", out)  # the fault strikes once
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [str(i) for i in range(n)]


def test_an_export_in_parts_that_is_killed_goes_on_with_the_same_command(fleet: Fleet) -> None:
    n = 2 * SHARD_TEXTS
    job = fleet.give(numbered(n))
    with fleet.worker():
        fleet.finish(job)
    whole, out = fleet.folder / "whole", fleet.folder / "out"
    results = ("results", job, "--part-documents", 30, "--out")
    fleet(*results, whole)
    fleet.environment[FAULT] = "export:kill@80"
    assert fleet.start(*results, out).wait(DEADLINE_S) == -signal.SIGKILL
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["complete"], manifest["documents"]) == (False, 60)
    kept = {name: (out / name).stat().st_mtime_ns for name in ("part-00000.jsonl", "part-00001.jsonl")}
    assert {path.name for path in out.glob("part*")} == set(kept)
    assert "Wrote 3 parts to" in fleet(*results, out).stderr
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    assert contents(out) == contents(whole)
    lines = b"".join(raw for name, raw in sorted(contents(out).items()) if name.startswith("part-"))
    assert [json.loads(line)["id"] for line in lines.splitlines()] == [str(i) for i in range(n)]
    assert "is complete: 128 results in 5 parts. Nothing was written." in fleet(*results, out).stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_job_that_was_read_ends_although_the_same_command_was_killed_before_its_first_chunk(fleet: Fleet) -> None:
    lines = "".join(json.dumps({"id": f"{n}", "text": f"text {n} " * 40}) + "\n" for n in range(N))
    with serving() as site:
        site.files["/corpus.jsonl"] = lines.encode()
        command = ("enqueue", "translate", f"{site.url}/corpus.jsonl", "--model", "null")
        job = fleet.json(*command)["id"]
        n_requests = len(site.requests)
        site.pause = threading.Event()
        again = fleet.start(*command)
        until(lambda: len(site.requests) == 2 * n_requests, "the source is being read")
        kill_group(again)
        with fleet.worker():
            until(lambda: read_status(fleet.database, job).ended, "the job has ended")
        status = read_status(fleet.database, job)
    assert (status.state, status.done, status.records, status.documents) == ("done", N, N, N)
