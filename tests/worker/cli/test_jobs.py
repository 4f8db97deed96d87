"""Jobs are paused, resumed and given another priority."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worker.harness import EXAMPLES, Docmill

DESCRIPTIONS = EXAMPLES / "descriptions.jsonl"


@pytest.fixture
def docmill(tmp_path: Path) -> Docmill:
    return Docmill(tmp_path, {"DOCMILL_REDIS_URL": "redis://127.0.0.1:9"})  # nothing here needs it to be up


def test_a_job_is_paused_resumed_and_given_another_priority_by_its_number(docmill: Docmill) -> None:
    job = docmill.enqueue(DESCRIPTIONS, "--task", "embed", "--model", "null")
    assert docmill.json("pause", job) == {"id": job, "changed": True}
    status = docmill.json("status", job)
    assert (status["state"], status["waiting_cause"]) == ("paused", "paused")
    assert "docmill resume" in docmill("jobs").stdout
    assert docmill.json("priority", job, 7)["changed"]
    assert docmill.json("resume", job)["changed"]
    status = docmill.json("status", job)
    assert (status["state"], status["priority"]) == ("running", 7)
    docmill("cancel", job)
    assert docmill.json("pause", job) == {"id": job, "changed": False}
    assert "had ended already" in docmill("resume", job).stderr


def test_run_does_not_wait_for_a_job_that_is_paused(docmill: Docmill) -> None:
    del docmill.environment["DOCMILL_REDIS_URL"]
    job = docmill.enqueue(DESCRIPTIONS, "--task", "embed", "--model", "null")
    docmill("pause", job)
    done = docmill("run", DESCRIPTIONS, "--task", "embed", "--model", "null", code=2)
    assert f"docmill resume {job}" in done.stderr
    docmill("resume", job)
    docmill("run", DESCRIPTIONS, "--task", "embed", "--model", "null")
    assert docmill.json("status", job)["done"] == 260


def test_a_job_that_is_not_there_is_said_with_the_command_that_lists_jobs(docmill: Docmill) -> None:
    for wrong in ("x", "0", "1.5"):
        refused = " ".join(docmill("wait", wrong, code=2).stderr.split())
        assert f"'{wrong}' is no number of a job; `docmill jobs` lists the jobs" in refused
    assert "there is no job 7; `docmill jobs` lists them" in docmill("wait", 7, code=2).stderr


def test_the_exit_codes_of_wait_are_those_of_the_page(tmp_path: Path) -> None:
    docmill = Docmill(tmp_path, {"DOCMILL_REDIS_URL": "redis://127.0.0.1:9"})  # nothing here needs it to be up

    def enqueue(name: str, text: str) -> int:
        (tmp_path / name).write_text(text)
        return docmill.enqueue(tmp_path / name, "--task", "embed", "--model", "null")

    done = enqueue("done.jsonl", "")
    rejected = enqueue("rejected.jsonl", "no record\n")
    cancelled = enqueue("cancelled.jsonl", '{"id": "1", "text": "never done"}\n')
    assert docmill.json("status", cancelled)["ended"] is False
    docmill("cancel", cancelled)
    for job, code in ((done, 0), (rejected, 4), (cancelled, 1)):
        assert docmill.json("wait", job, code=code)["ended"] is True
    docmill("wait", 99, code=2)
    docmill.environment["DOCMILL_DATABASE_URL"] = "postgresql://nobody@127.0.0.1:9/none"
    docmill("wait", done, code=3)
