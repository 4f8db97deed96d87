"""The lock of a detached run."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from worker.errors import RunsDetached
from worker.process import detached
from worker.process.detached import Reporter, find


def test_of_two_runs_that_begin_together_one_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(
        detached, "refuse_second", lambda _home, _job: None
    )  # it looked before the other had its lock
    monkeypatch.setattr(detached, "TRY_AGAIN_S", 0)
    reporter = Reporter(tmp_path, -1, "log")
    with (tmp_path / "runs/7.lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RunsDetached, match="docmill attach 7"):
            reporter.opened(7)
        reporter.ended(2)
    assert find(tmp_path, 7) is None  # the record is the other run's
