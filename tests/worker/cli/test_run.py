"""`docmill run` on the embedded store: the main job, real models, real documents."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import OutcomeRow
from docmill.storage.leases import dispatch
from tests.storage.builders import dispatch_shards, sign_on
from tests.worker.harness import EXAMPLES, Docmill

DESCRIPTIONS = EXAMPLES / "descriptions.jsonl"


def _first(path: Path, n: int) -> list[dict[str, str]]:
    with path.open() as lines:
        return [json.loads(next(lines)) for _ in range(n)]


def test_a_prompt_comes_from_a_file_and_another_one_makes_other_results(embedded: Docmill) -> None:
    (embedded.folder / "prompt.txt").write_text("Say it again:\n{text}")
    task = ("--model", "null", "--stop", "a", "--stop", "b", "--limit", 3)
    embedded("run", "generate", DESCRIPTIONS, *task, "--prompt", "@prompt.txt", "--temperature", 0.5, "--seed", 4)
    repeated = embedded(
        "run", "generate", DESCRIPTIONS, *task, "--prompt", "Say it again:\n{text}", "--temperature", 0.5, "--seed", 4
    )
    assert "Nothing to compute" in repeated.stderr
    embedded("run", "generate", DESCRIPTIONS, *task, "--prompt", "Say something else: {text}")
    assert embedded.json("jobs")[0]["tokens_in"] > 0
    results = embedded.results(1)
    assert [result["task"] for result in results] == ["generate"] * 3
    assert [result["text"] for result in results] == [record["text"] for record in _first(DESCRIPTIONS, 3)]


def test_standard_input_is_read_as_json_lines(embedded: Docmill) -> None:
    lines = b'{"id": "a", "text": "A text editor."}\n{"text": "A web browser."}\n'
    embedded("run", "embed", "-", "--model", "null", stdin=lines)
    assert [result["id"] for result in embedded.results(1)] == ["a", "-:2"]


def test_a_run_computes_its_own_job_and_names_those_that_wait(embedded: Docmill, store: Database) -> None:
    for number in range(1, 6):
        (embedded.folder / f"{number}.jsonl").write_text(f'{{"text": "text {number}"}}\n')
    for number in range(1, 5):
        embedded("enqueue", "embed", f"{number}.jsonl", "--model", "null")
    stderr = embedded("run", "embed", "5.jsonl", "--model", "null").stderr
    (waiting,) = re.findall(r"Unfinished jobs wait for a worker: (.*) and others\. `docmill worker`", stderr)
    assert re.findall(r"(\d) \(\S*(\d\.jsonl)\)", waiting) == [(n, f"{n}.jsonl") for n in "123"]
    assert [embedded.json("status", number)["done"] for number in range(1, 6)] == [0, 0, 0, 0, 1]
    ended_at_once = embedded("run", "embed", "5.jsonl", "--model", "null").stderr
    assert f"wait for a worker: {waiting} and others." in ended_at_once
    assert len(dispatch_shards(store)) == 4  # as of a worker that was killed, with its queue
    continued = embedded("run", "embed", "2.jsonl", "--model", "null").stderr
    assert "Job 2 was unfinished. It continues" in continued
    assert "hints_lost" not in continued
    assert [embedded.json("status", number)["done"] for number in range(1, 6)] == [0, 1, 0, 0, 1]


def test_a_run_asks_its_own_worker_whatever_others_refused(embedded: Docmill, store: Database) -> None:
    (embedded.folder / "one.jsonl").write_text('{"text": "A text editor."}\n')
    embedded("enqueue", "embed", "one.jsonl", "--model", "null")
    sign_on(store, "another", "embed")
    dispatch.refuse(store, "another", 1, "its backend has no such precision")
    assert "its backend has no such precision" in embedded.json("status", 1)["waiting_for"]
    embedded("run", "embed", "one.jsonl", "--model", "null")
    assert embedded.json("status", 1)["state"] == "done"


def test_a_dry_run_counts_and_times_and_stores_nothing(embedded: Docmill) -> None:
    embedded("run", "embed", DESCRIPTIONS, "--limit", 4)
    forecast = embedded.json("run", "embed", DESCRIPTIONS, "--limit", 20, "--dry-run")
    assert (forecast["documents"], forecast["done_already"], forecast["sampled"]) == (20, 4, 16)
    assert forecast["tokens_to_do"] > 16
    assert forecast["seconds"] > 0
    assert len(embedded.json("jobs")) == 1


def test_failures_that_stand_are_not_computed_again_until_they_are_retried(
    embedded: Docmill, store: Database, write_corpus: Callable[..., Path]
) -> None:
    write_corpus([{"id": i, "text": f"A driver for printer number {i}."} for i in range(3)])
    embedded("run", "embed", "corpus.jsonl", "--model", "null")
    failed = {"status": "failed", "vector": None, "reason": "the machine went away", "reason_class": "transient"}
    store.execute(update(OutcomeRow).where(OutcomeRow.content_id == 2).values(failed))
    repeated = embedded("run", "embed", "corpus.jsonl", "--model", "null", code=1)
    assert "Nothing to compute" in repeated.stderr
    assert "docmill retry 2" in repeated.stderr
    assert embedded.json("retry", 2, "--only", "model") == {"id": 2, "retried": 0, "goes_on": False}
    retried = embedded("retry", 2, "--only", "transient").stderr
    assert "1 text of job 2 will be tried again." in retried
    assert "if it was `docmill run`" in " ".join(retried.split())
    status = embedded.json("run", "embed", "corpus.jsonl", "--model", "null")
    assert (status["id"], status["done"], status["failed"]) == (2, 3, 0)
