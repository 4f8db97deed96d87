"""A detached run goes on after its terminal ended, and `docmill attach` follows it, or says that it crashed."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.worker.harness import DOCMILL, Docmill, Running, device_children, kill_group, until
from worker.process.detached import Runs

pytestmark = pytest.mark.slow

WriteCorpus = Callable[..., Path]
RUN = ("--task", "embed", "--model", "null")


@pytest.fixture(autouse=True)
def _no_run_outlives_its_test(tmp_path: Path) -> Iterator[None]:
    yield
    for file in (tmp_path / "home").glob("runs/*.json"):
        job, _, store = file.stem.partition("-")
        if Runs(file.parent, store).lives(int(job)):
            os.killpg(json.loads(file.read_text())["pid"], signal.SIGKILL)


@pytest.fixture
def corpus(write_corpus: WriteCorpus) -> Path:
    return write_corpus({"id": str(n), "text": f"text {n}"} for n in range(600))


def _record(docmill: Docmill, job: int = 1) -> dict[str, Any]:
    [record] = (docmill.folder / "home/runs").glob(f"{job}-*.json")
    found: dict[str, Any] = json.loads(record.read_text())
    return found


def _hung(docmill: Docmill, corpus: Path) -> dict[str, Any]:
    """Start a detached run whose first shard hangs, so that it does not end before we look."""
    docmill.environment["DOCMILL_FAULT"] = "claimed:hang"
    started: dict[str, Any] = docmill.json("run", corpus, *RUN, "--detach")
    del docmill.environment["DOCMILL_FAULT"]
    until((docmill.folder / "home/fault.struck").exists, "the first shard hangs")
    return started


def _go_on(run: dict[str, Any]) -> None:
    """End the process that hangs; the run starts another."""
    for pid in device_children(run["pid"]):
        os.kill(pid, signal.SIGKILL)


def _attached(docmill: Docmill, job: int) -> tuple[Running, int]:
    """Start `docmill attach` on a terminal, and wait for its bar. Return it and our end of the terminal."""
    docmill.environment["TERM"], docmill.from_anew = "xterm", True  # a fork has asked for the terminal already
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "wb") as terminal:
        process = docmill.launch(["attach", job], terminal, terminal)
    docmill.from_anew = False
    _read_until(ours, b"embed")
    return process, ours


def _read_until(terminal: int, awaited: bytes) -> bytes:
    """Return what is written to a terminal, up to some words."""
    said = b""
    while awaited not in said:
        assert select.select([terminal], [], [], 60)[0], said
        said += os.read(terminal, 1_000)
    return said


def test_a_detached_run_goes_on_after_its_terminal_is_gone(embedded: Docmill, corpus: Path) -> None:
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(
        [
            "setsid",
            "--ctty",
            "env",
            "--default-signal=HUP",  # nohup, under which tests may run, lets all children ignore it
            "/bin/sh",
            "-c",
            f"{DOCMILL} run {corpus} {' '.join(RUN)} --detach --out out.jsonl; exec sleep 1000",
        ],
        cwd=embedded.folder,
        env=embedded.environment | {"DOCMILL_FAULT": "claimed:hang"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    assert b"docmill attach 1" in _read_until(ours, b"docmill status 1")
    until((embedded.folder / "home/fault.struck").exists, "the first shard hangs")
    os.close(ours)  # the terminal's session gets a SIGHUP
    assert shell.wait(120) == -signal.SIGHUP
    run = _record(embedded)
    _go_on(run)
    status = embedded.json("attach", 1)
    assert (status["state"], status["done"]) == ("done", 600)
    assert _record(embedded)["code"] == 0
    assert len((embedded.folder / "out.jsonl").read_text().splitlines()) == 600
    assert "Job 1 done" in Path(run["log"]).read_text()


def test_whoever_attaches_may_leave_and_no_second_run_takes_the_job(embedded: Docmill, corpus: Path) -> None:
    run = _hung(embedded, corpus)
    use = until(lambda: embedded.json("status", 1)["time_use"], "the worker says where its time goes")
    assert sum(use[phase] for phase in ("reading", "cutting", "computing", "writing")) == pytest.approx(1, abs=1e-3)
    process, terminal = _attached(embedded, 1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    assert b"Left job 1" in _read_until(terminal, b"docmill attach 1")
    os.close(terminal)
    for more in ((), ("--detach",)):
        refused = embedded("run", corpus, *RUN, *more, code=2).stderr
        assert "job 1 has a detached run already" in refused
        assert "docmill attach 1" in refused
    _go_on(run)
    assert "Job 1 done" in embedded("attach", 1).stderr


@pytest.mark.long
def test_a_crash_is_said_with_the_log_and_the_same_command_continues(embedded: Docmill, corpus: Path) -> None:
    run = _hung(embedded, corpus)
    os.kill(run["pid"], signal.SIGKILL)
    said = embedded("attach", 1, code=1).stderr
    assert "the detached run of job 1 crashed" in said
    assert run["log"] in said
    assert "Run the same command again" in said
    assert embedded.json("run", corpus, *RUN, "--detach")["job"] == 1
    embedded("attach", 1)


def test_a_job_of_the_same_number_in_another_store_has_nothing_to_do_with_the_run(
    embedded: Docmill, corpus: Path
) -> None:
    run = _hung(embedded, corpus)
    embedded.environment["DOCMILL_DATABASE_URL"] = f"sqlite:///{embedded.folder / 'other.db'}"
    embedded("db", "upgrade")
    embedded("run", corpus, *RUN, "--limit", "3")
    assert embedded.json("attach", 1)["documents"] == 3
    del embedded.environment["DOCMILL_DATABASE_URL"]
    _go_on(run)
    assert embedded.json("attach", 1)["documents"] == 600


def test_a_job_that_is_not_there_is_said_with_the_command_that_lists_jobs(embedded: Docmill) -> None:
    for wrong in ("x", "0", "1.5"):
        refused = " ".join(embedded("attach", wrong, code=2).stderr.split())
        assert f"'{wrong}' is no number of a job; `docmill jobs` lists the jobs" in refused
    assert "there is no job 7; `docmill jobs` lists them" in embedded("attach", 7, code=2).stderr


@pytest.mark.long
def test_a_stopped_run_says_its_exit_code(embedded: Docmill, corpus: Path) -> None:
    embedded.environment["DOCMILL_DRAIN_S"] = "0.1"  # the shard that hangs is given back then
    run = _hung(embedded, corpus)
    os.kill(run["pid"], signal.SIGTERM)
    until(lambda: _record(embedded)["code"] is not None, "the run has ended")
    assert "ended with exit code 130" in embedded("attach", 1, code=1).stderr


def test_a_run_that_cannot_start_says_why_at_once(embedded: Docmill, corpus: Path) -> None:
    assert "standard input" in embedded("run", "-", *RUN, "--detach", code=2).stderr
    assert "--out a file" in embedded("run", corpus, *RUN, "--detach", "--out", "-", code=2).stderr
    said = embedded("run", corpus, *RUN, "--detach", "--text-field", "nonsense", code=2).stderr
    assert "nonsense" in said
    assert list((embedded.folder / "home/runs").iterdir()) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # `wait` follows on both
def test_attach_follows_a_job_of_a_fleet(fleet: Docmill, corpus: Path) -> None:
    job = fleet.enqueue(corpus, *RUN)
    process, terminal = _attached(fleet, job)
    try:
        with fleet.worker("--lanes", "embed"):
            _read_until(terminal, b"done:")
            assert process.wait(60) == 0
    finally:
        os.close(terminal)
        if process.poll() is None:
            kill_group(process)
    assert fleet.json("attach", job)["state"] == "done"
