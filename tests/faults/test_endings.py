"""Jobs that are cancelled while they run, enqueues that race or die, exports that are cut short."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from storage.intake.ingest import CHUNK_RECORDS
from storage.schema import Document, Shard
from tests.faults.checker import read_books
from tests.faults.mill import SHARD_TEXTS, Mill, numbered
from tests.storage.books import at_once
from tests.worker.harness import until

STOPS_S = 15.0


def test_a_cancelled_job_stops_in_time_keeps_what_is_done_and_takes_no_late_result(mill: Mill) -> None:
    job = mill.give(numbered(8 * SHARD_TEXTS), model="null@200")  # three shards at once take nine seconds
    other = mill.give(numbered(SHARD_TEXTS), priority=-1)
    with mill.worker():
        until(lambda: mill.states()["running"] == 3, "every thread has a shard")
        assert mill.json("cancel", job)["cancelled"]
        cancelled_at = time.monotonic()
        states = {row.state for row in mill.shards(Shard.job_id, Shard.state) if row.job_id == job}
        # A top-up that was under way may still put some into the queue, where nobody claims them.
        assert states <= {"planned", "queued", "done"}
        kept = read_books(mill.database, job).statuses
        mill.finish(other)
        assert time.monotonic() - cancelled_at < STOPS_S, "the threads are free again"
        assert not mill.json("cancel", job)["cancelled"]
    mill.finish(job, state="cancelled")
    assert read_books(mill.database, job).statuses == kept
    assert "lease_lost" in mill.log("worker")
    assert mill("wait", job, code=1).returncode == 1


def test_an_enqueue_that_was_killed_is_carried_on_by_the_same_command_without_doubles(mill: Mill) -> None:
    n = CHUNK_RECORDS + 1000  # three chunks, the first of which is small
    enqueue = ("enqueue", mill.corpus(numbered(n)), "--task", "translate", "--model", "null")
    mill.environment["DOCMILL_FAULT"] = "enqueue:kill@2"
    killed = mill.start(*enqueue)
    assert killed.wait(30) < 0
    assert mill.strikes()
    del mill.environment["DOCMILL_FAULT"]
    done = mill.json(*enqueue)
    assert (done["id"], done["adopted"], done["documents"]) == (1, True, n)
    again = mill.json(*enqueue)
    assert (again["id"], again["counts"]["new"], again["counts"]["planned"]) == (1, 0, 0)
    assert sum(row.n_contents for row in mill.shards(Shard.n_contents)) == n


def test_two_enqueues_of_one_corpus_at_once_make_one_job_with_each_document_once(mill: Mill) -> None:
    n = 3000
    enqueue = ("enqueue", mill.corpus(numbered(n)), "--task", "translate", "--model", "null")
    one, other = at_once(lambda: mill.json(*enqueue), lambda: mill.json(*enqueue))
    assert {one["documents"], other["documents"]} == {n}
    assert one["id"] == other["id"]
    assert sum(row.n_contents for row in mill.shards(Shard.n_contents)) == n
    with mill.database.read() as connection:
        assert len(connection.execute(Document.__table__.select()).all()) == n


@pytest.mark.parametrize("before", [None, "an earlier export\n"], ids=["new", "replaced"])
def test_an_export_that_is_killed_leaves_nothing_half_written_at_its_path(mill: Mill, before: str | None) -> None:
    n = 2 * SHARD_TEXTS
    job = mill.give(numbered(n))
    with mill.worker():
        mill.finish(job)
    out = mill.folder / "out.jsonl"
    if before is not None:
        out.write_text(before)
    mill.environment["DOCMILL_FAULT"] = "export:kill@50"
    killed = mill.start("results", job, "--out", out)
    assert killed.wait(30) < 0
    assert (out.read_text() if out.exists() else None) == before
    mill("results", job, "--out", out)  # the fault strikes once
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [str(i) for i in range(n)]


def test_an_export_in_parts_that_is_killed_goes_on_with_the_same_command(mill: Mill) -> None:
    n = 2 * SHARD_TEXTS
    job = mill.give(numbered(n))
    with mill.worker():
        mill.finish(job)
    whole, out = mill.folder / "whole", mill.folder / "out"
    results = ("results", job, "--part-documents", 30, "--out")
    mill(*results, whole)
    mill.environment["DOCMILL_FAULT"] = "export:kill@80"
    assert mill.start(*results, out).wait(30) == -signal.SIGKILL
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["complete"], manifest["documents"]) == (False, 60)
    kept = {name: (out / name).stat().st_mtime_ns for name in ("part-00000.jsonl", "part-00001.jsonl")}
    assert {path.name for path in out.glob("part*")} == set(kept)
    assert "Wrote 3 parts to" in mill(*results, out).stderr
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    assert contents(out) == contents(whole)
    lines = b"".join(raw for name, raw in sorted(contents(out).items()) if name.startswith("part-"))
    assert [json.loads(line)["id"] for line in lines.splitlines()] == [str(i) for i in range(n)]
    assert "is complete: 128 results in 5 parts. Nothing was written." in mill(*results, out).stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
