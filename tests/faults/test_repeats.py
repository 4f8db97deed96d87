"""The same command again, killed before it has stored anything."""

from __future__ import annotations

import json
import threading

from docmill.storage.results.status import read_status
from tests.faults.fleet import Fleet
from tests.storage.readers.site import serving
from tests.worker.harness import kill_group, until

N = 300  # half of them are less than a first chunk


def test_a_job_that_was_read_ends_although_the_same_command_was_killed_before_its_first_chunk(fleet: Fleet) -> None:
    lines = "".join(json.dumps({"id": f"{n}", "text": f"text {n} " * 40}) + "\n" for n in range(N))
    with serving() as site:
        site.files["/corpus.jsonl"] = lines.encode()
        command = ("enqueue", f"{site.url}/corpus.jsonl", "--task", "translate", "--model", "null")
        job = fleet.json(*command)["id"]
        n_asked = len(site.asked)
        site.pause = threading.Event()
        again = fleet.start(*command)
        until(lambda: len(site.asked) == 2 * n_asked, "the source is being read")
        kill_group(again)
        with fleet.worker():
            until(lambda: read_status(fleet.database, job).ended, "the job has ended")
        status = read_status(fleet.database, job)
    assert (status.state, status.done, status.records, status.documents) == ("done", N, N, N)
