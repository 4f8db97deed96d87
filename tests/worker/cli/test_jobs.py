"""Jobs are paused, resumed and given another priority, and waited for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from docmill.worker.formatting import local_time
from tests.worker.conftest import Call
from tests.worker.harness import EXAMPLES, Docmill

EMBED = ("embed", EXAMPLES / "descriptions.jsonl", "--model", "null")


def test_a_job_is_paused_resumed_and_given_another_priority_by_its_number(call: Call) -> None:
    call("enqueue", *EMBED)
    assert call("pause", 1, "--json").json() == {"id": 1, "changed": True}
    status = call("status", 1, "--json").json()
    assert (status["state"], status["waiting_cause"]) == ("paused", "paused")
    made = local_time(status["created_at"])
    listed = call("jobs").out
    assert "docmill resume" in listed
    assert made in listed
    shown = call("status", 1).out
    assert made in shown
    assert "docmill resume" in shown
    assert call("priority", 1, 7, "--json").json()["changed"]
    assert call("resume", 1, "--json").json()["changed"]
    status = call("status", "--json").json()  # of the latest job
    assert (status["id"], status["state"], status["priority"]) == (1, "running", 7)
    assert call("cancel", 1, "--json").json() == {"id": 1, "cancelled": True}
    assert call("pause", 1, "--json").json() == {"id": 1, "changed": False}
    assert "had ended already" in call("resume", 1).err


def test_an_idempotency_key_has_one_job_that_a_repeat_reports(call: Call, write_corpus: Callable[..., Path]) -> None:
    enqueue = ("enqueue", "translate", write_corpus([{"id": "1", "text": "one"}]), "--model", "null")
    keyed = (*enqueue, "--idempotency-key", "run 1")
    assert call(*keyed, "--json").json()["id"] == 1
    write_corpus([])  # not read any more
    call("cancel", 1)
    job = call(*keyed, "--json").json()
    assert (job["id"], job["repeated"], job["state"], job["counts"]["new"]) == (1, True, "cancelled", 1)
    output = call(*keyed, "--wait", code=1)
    assert output.out == "1\n"
    assert output.err.splitlines()[0] == "Job 1 (cancelled) has the key run 1 already. Nothing was read."
    refused = call(*keyed, "--limit", 5, code=2)
    assert "--limit not given then, 5 now. Give the same arguments, or another key" in refused.err


def test_run_does_not_wait_for_a_job_that_is_paused(embedded: Docmill) -> None:
    job = embedded.enqueue(*EMBED)
    embedded("pause", job)
    assert f"docmill resume {job}" in embedded("run", *EMBED, code=2).stderr
    embedded("resume", job)
    embedded("run", *EMBED)
    assert embedded.json("status", job)["done"] == 260


def test_a_run_ends_at_its_max_cost_and_goes_on_with_a_higher_one(embedded: Docmill) -> None:
    prices = embedded.folder / "prices.toml"
    source = embedded.folder / "many.jsonl"
    source.write_text("".join(f'{{"id": {n}, "text": "text {n}"}}\n' for n in range(2_000)))
    run = ("run", "embed", source, "--model", "null", "--max-cost")
    assert "needs the price of null" in embedded(*run, 1, code=2).stderr
    prices.write_text("[null]\ninput = 1_000_000\n")  # one for each token
    embedded.environment["DOCMILL_PRICES"] = str(prices)
    stopped = embedded(*run, 500, code=2).stderr
    assert "it has reached its cost limit: " in stopped
    assert "The same command with a higher --max-cost continues" in stopped
    status = embedded.json("status", 1)
    assert (status["state"], status["waiting_cause"]) == ("paused", "cost")
    cost = status["cost"]["amount"]
    assert cost >= 500
    assert "Job 1 stays paused: it has reached its cost limit" in embedded("resume", 1).stderr
    assert embedded("resume", 1, "--max-cost", cost + 1).stderr == "Job 1 is resumed.\n"
    embedded(*run, 10**9)
    status = embedded.json("status", 1)
    assert (status["state"], status["done"]) == ("done", 2_000)


def test_an_unknown_job_is_refused_with_the_command_that_lists_jobs(call: Call) -> None:
    for wrong in ("x", "0", "1.5"):
        message = f"'{wrong}' is not a job number; `docmill jobs` lists the jobs"
        assert message in " ".join(call("status", wrong, "--wait", code=2).err.split())
    assert "there is no job 7; `docmill jobs` lists them" in call("status", 7, "--wait", code=2).err


def test_the_exit_codes_of_waiting_are_those_of_the_page(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {"done": "", "rejected": "no record\n", "cancelled": '{"id": "1", "text": "never done"}\n'}
    for name, text in texts.items():
        (tmp_path / f"{name}.jsonl").write_text(text)
        call("enqueue", "embed", f"{name}.jsonl", "--model", "null")
    assert call("status", 3, "--json").json()["ended"] is False
    call("cancel", 3)
    for job, code in ((1, 0), (2, 4), (3, 1)):
        assert call("status", job, "--wait", "--json", code=code).json()["ended"] is True
    monkeypatch.setenv("DOCMILL_DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")
    call("status", 1, "--wait", code=3)
