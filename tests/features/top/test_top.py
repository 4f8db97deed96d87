"""`docmill top` over a real store: a frame that fits its width, and again and again in a terminal."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import pytest

from docmill.features.top.frame import plain_frame, read_view
from docmill.storage.core.database import Database
from docmill.storage.leases import dispatch
from docmill.storage.steps import jobs
from tests.storage.builders import claim_next, failed, finish, numbered, read, request, sign_on
from tests.worker.harness import DEADLINE_S, Docmill

HOSTILE = "[bold]\x1b[31mred"


def test_jobs_lanes_and_workers_are_shown(database: Database) -> None:
    read(database, request(HOSTILE, corpus="old"), numbered(3))
    finish(database, failed)
    read(database, request(), numbered(40, first=10), chunk=10)
    sign_on(database, "w1")
    sign_on(database, "w2")
    claim_next(database, "w1")
    dispatch.refuse(database, "w2", 1, HOSTILE)
    frame = plain_frame(*read_view(database), 80)
    assert "\x1b" not in frame
    assert max(map(len, frame.splitlines())) <= 80
    _, lanes, workers, jobs = ([line.split() for line in part.splitlines()] for part in frame.split("\n\n"))
    assert lanes[1][0] == "copy"
    assert [row[2].split("/")[0] for row in workers[1:]] == ["1", "0"]
    assert [row[0] for row in jobs[1:]] == ["2", "1"]  # those to do come first
    assert "100" in jobs[2]


def test_a_job_to_do_is_shown_however_many_later_jobs_ended(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docmill.features.top.frame.JOBS", 2)
    read(database, request(), numbered(1))
    for corpus in "bcd":
        read(database, request(corpus=corpus), [])
    jobs.finish(database)
    assert [job.id for job in read_view(database)[0]] == [1, 4]
    for corpus in "ef":
        read(database, request(corpus=corpus), numbered(1))
    assert plain_frame(*read_view(database), 80).startswith("3 jobs to do")


def test_without_a_terminal_one_frame_is_printed(tmp_path: Path) -> None:
    docmill = Docmill(tmp_path, {})
    assert docmill("top").stdout.splitlines()[0].startswith("0 jobs to do, 0 workers")
    assert docmill("top", "--once").stdout.splitlines()[2:] == [
        "no lanes",
        "",
        "no workers",
        "",
        "no jobs",
    ]
    assert docmill.json("top")["jobs"] == []


def test_in_a_terminal_frames_follow_until_it_is_interrupted(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "wb", 0) as terminal:
        process = Docmill(tmp_path, {"TERM": "xterm"}).launch(("top",), terminal, terminal)
    shown = b""
    while shown.count(b"jobs to do") < 2:
        assert select.select([ours], [], [], DEADLINE_S)[0], "the next frame comes"
        shown += os.read(ours, 4_096)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    os.close(ours)
