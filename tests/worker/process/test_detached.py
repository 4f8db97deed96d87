"""The lock of a detached run."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from worker.errors import RunsDetached
from worker.process import detached
from worker.process.detached import DetachedRun, Reporter, Runs


def test_of_two_runs_that_begin_together_one_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    # It looked before the other had its lock.
    monkeypatch.setattr(Runs, "refuse_second", lambda _runs, _job: None)
    monkeypatch.setattr(detached, "TRY_AGAIN_S", 0)
    runs = Runs(tmp_path / "runs", "a")
    reporter = Reporter(runs, -1, "log")
    with (tmp_path / "runs/7-a.lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RunsDetached, match="docmill attach 7"):
            reporter.opened(7)
        reporter.ended(2)
    assert runs.find(7) is None  # the record is the other run's


@contextmanager
def living(runs: Runs, job: int) -> Iterator[None]:
    """A run that lives as long as the block, with its record."""
    with runs.locked(job):
        run = DetachedRun(job, 17, str(runs.folder / f"{runs.store}.log"), 5.0)
        Path(run.log).touch()
        runs.record_file(job).write_text(json.dumps(asdict(run)))
        yield


def test_the_same_number_of_a_job_in_two_stores_is_two_runs(tmp_path: Path) -> None:
    first, second = Runs(tmp_path, "a"), Runs(tmp_path, "b")
    with living(first, 1):
        assert first.lives(1)
        assert not second.lives(1)
        assert second.find(1) is None
        with pytest.raises(RunsDetached):
            first.refuse_second(1)
        second.refuse_second(1)
        with living(second, 1):
            assert second.lives(1)
    logs = [Path(run.log).name for runs in (first, second) if (run := runs.find(1)) is not None]
    assert logs == ["a.log", "b.log"]


def test_a_record_of_an_earlier_release_is_read_until_the_store_has_its_own(tmp_path: Path) -> None:
    runs = Runs(tmp_path, "a")
    earlier = DetachedRun(1, 17, "earlier", 5.0)
    (tmp_path / "1.json").write_text(json.dumps(asdict(earlier)))
    assert runs.find(1) == earlier
    with (tmp_path / "1.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert runs.lives(1)
        with pytest.raises(RunsDetached):
            runs.refuse_second(1)
    assert not runs.lives(1)
    with living(runs, 1):
        pass
    found = runs.find(1)
    assert found is not None
    assert Path(found.log).name == "a.log"


def test_old_records_of_every_store_are_deleted_with_their_logs_unless_the_run_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detached, "KEPT_LOGS", 1)
    (tmp_path / "1.json").write_text(json.dumps(asdict(DetachedRun(1, 17, str(tmp_path / "old.log"), 5.0, 0))))
    (tmp_path / "old.log").touch()
    os.utime(tmp_path / "1.json", (1, 1))
    with living(Runs(tmp_path, "b"), 1):
        pass
    with living(Runs(tmp_path, "a"), 1):
        os.utime(tmp_path / "1-a.json", (2, 2))
        detached.forget(tmp_path)
        kept = {"1-a.json", "1-a.lock", "a.log", "1-b.json", "1-b.lock", "b.log"}
        assert {path.name for path in tmp_path.iterdir()} == kept
    detached.forget(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"1-b.json", "1-b.lock", "b.log"}
