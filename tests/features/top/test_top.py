"""`docmill top` over a real store: its screens at two sizes, a slow store, and the plain frame."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from docmill.features.top.frame import View, read_view
from docmill.features.top.screens import FailuresScreen, JobScreen, TopApp
from docmill.storage.core.database import Database
from docmill.storage.errors import DatabaseUnreachable
from docmill.storage.leases import dispatch
from tests.storage.builders import claim_next, failed, finish, numbered, read, request, sign_on
from tests.worker.harness import Docmill

SIZE = (80, 24)
LANES = ("copy", "embed")
HOSTILE = "[bold]\x1b[31mred"


@pytest.fixture
def busy(database: Database) -> Database:
    """A store with a job that failed, one at work, and two workers of which one refuses."""
    read(database, request(HOSTILE, corpus="old"), numbered(3))
    finish(database, failed)
    read(database, request(), numbered(40, first=10), chunk=10)
    sign_on(database, "w1")
    sign_on(database, "w2")
    claim_next(database, "w1")
    dispatch.refuse(database, "w2", 1, HOSTILE)
    return database


def _played(app: TopApp, size: tuple[int, int], play: Callable[[Pilot[None]], Awaitable[None]]) -> None:
    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await play(pilot)

    asyncio.run(run())


async def _until(pilot: Pilot[None], condition: Callable[[], Any]) -> None:
    for _ in range(2_000):
        if condition():
            return
        await pilot.pause(0.01)
    raise AssertionError("it never came")


def _text(app: TopApp, name: str) -> str:
    return str(app.screen.query_one(name, Static).render())


def _cells(app: TopApp, name: str) -> list[list[str]]:
    table = app.screen.query_one(name, DataTable)
    return [[str(cell) for cell in table.get_row_at(place)] for place in range(table.row_count)]


def test_jobs_lanes_workers_and_the_last_failure_are_shown(busy: Database) -> None:
    app = TopApp(lambda: read_view(busy, LANES))

    async def play(pilot: Pilot[None]) -> None:
        await _until(pilot, lambda: app.view)
        jobs = _cells(app, "#jobs")
        assert [row[0] for row in jobs] == ["2", "1"]  # those to do come first
        assert jobs[1][4].endswith("100 %")
        assert _cells(app, "#lanes")[0][0] == "copy"
        assert [row[2].split("/")[0] for row in _cells(app, "#workers")] == ["1", "0"]
        assert "job 1" in _text(app, "#failure")
        assert "\x1b" not in "".join(map(str, _cells(app, "#workers")))
        for name in ("#jobs", "#lanes", "#workers", "#failure"):  # nothing lies outside the screen
            widget = app.screen.query_one(name)
            await _until(pilot, lambda: widget.region.height)  # noqa: B023 - called here
            assert widget.region.bottom <= SIZE[1]
        assert app.screen.query_one("#jobs", DataTable).max_scroll_x == 0

    _played(app, SIZE, play)


def test_the_keys_show_a_job_and_failures_and_end_it(busy: Database) -> None:
    app = TopApp(lambda: read_view(busy, LANES))

    async def play(pilot: Pilot[None]) -> None:
        await _until(pilot, lambda: app.view)
        await pilot.press("down", "enter")
        await _until(pilot, lambda: isinstance(app.screen, JobScreen))
        assert "1 (done)" in _text(app, "#job")
        await pilot.press("escape", "f")
        await _until(pilot, lambda: isinstance(app.screen, FailuresScreen))
        assert len(_cells(app, "#failures")) == 3
        await pilot.press("escape", "q")

    _played(app, SIZE, play)
    assert app.return_code == 0


def test_a_slow_store_leaves_the_keys_alone(busy: Database) -> None:
    goes_on, n_reads = threading.Event(), 0

    def slowly() -> View:
        nonlocal n_reads
        n_reads += 1
        if n_reads > 1:
            assert goes_on.wait(60)
        return read_view(busy, LANES)

    app = TopApp(slowly, refresh_s=0.02)

    async def play(pilot: Pilot[None]) -> None:
        await _until(pilot, lambda: n_reads == 2 and "has not answered" in _text(app, "#headline"))
        await pilot.press("enter")
        await _until(pilot, lambda: isinstance(app.screen, JobScreen))
        assert n_reads == 2  # one reading at a time
        await pilot.press("q")

    _played(app, SIZE, play)
    goes_on.set()


def test_a_store_that_is_away_is_named_and_the_figures_stay(busy: Database) -> None:
    away = threading.Event()

    def read() -> View:
        if away.is_set():
            raise DatabaseUnreachable("no route to it")
        return read_view(busy, LANES)

    app = TopApp(read, refresh_s=0.02)

    async def play(pilot: Pilot[None]) -> None:
        await _until(pilot, lambda: app.view)
        away.set()
        await _until(pilot, lambda: "no route to it" in _text(app, "#headline"))
        assert len(_cells(app, "#jobs")) == 2
        away.clear()
        await _until(pilot, lambda: "2 workers" in _text(app, "#headline"))

    _played(app, SIZE, play)


def test_without_a_terminal_one_frame_is_printed(tmp_path: Path) -> None:
    docmill = Docmill(tmp_path, {})
    assert docmill("top").stdout.splitlines()[0].startswith("0 jobs to do, 0 workers")
    assert docmill("top", "--once").stdout.splitlines()[2:] == [
        "no jobs",
        "",
        "no lanes",
        "",
        "no workers",
        "",
        "no failures in the last 24 hours",
    ]
    assert docmill.json("top")["jobs"] == []
