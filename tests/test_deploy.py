"""The units for systemd, and what docs/deploy.md says beside them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from docmill.worker.settings import Settings
from tests.test_compose import ROOT, SERVICES

UNITS = sorted((ROOT / "deploy" / "systemd").glob("docmill-*.*"))
PAGE = (ROOT / "docs" / "deploy.md").read_text()
PROGRAM = "/opt/docmill/bin/docmill"


def _settings(unit: str) -> dict[str, str]:
    lines = (ROOT / "deploy" / "systemd" / f"{unit}.service").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this machine")
    for unit in UNITS:  # it looks whether the program is there
        (tmp_path / unit.name).write_text(unit.read_text().replace(PROGRAM, "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / unit.name) for unit in UNITS)]
    verified = subprocess.run(command, capture_output=True, text=True)
    said = verified.stdout + verified.stderr
    assert verified.returncode == 0, said
    assert "docmill" not in said


def test_the_units_run_a_worker_the_migration_and_collection() -> None:
    names = [unit.name.removeprefix("docmill-") for unit in UNITS]
    assert names == ["gc.service", "gc.timer", "migrate.service", "worker.service"]
    worker, migrate, collect = _settings("docmill-worker"), _settings("docmill-migrate"), _settings("docmill-gc")
    assert collect["ExecStart"] == f"{PROGRAM} gc --retention --for 1h"
    assert collect["Type"] == "oneshot"
    assert worker["ExecStart"] == f"{PROGRAM} worker"
    assert migrate["ExecStart"] == f"{PROGRAM} db upgrade"
    assert migrate["Type"] == "oneshot"
    assert worker["User"] == migrate["User"] == "docmill"


def test_a_stopping_worker_is_told_by_sigterm_and_gets_as_much_time_as_with_compose() -> None:
    worker = _settings("docmill-worker")
    assert (worker["KillSignal"], worker["KillMode"]) == ("SIGTERM", "mixed")
    stop_s = int(worker["TimeoutStopSec"])
    assert stop_s >= Settings.model_fields["drain_s"].default + 10
    assert SERVICES["worker"]["stop_grace_period"] == f"{stop_s}s"


def test_a_worker_comes_back_unless_a_setting_is_wrong() -> None:
    from docmill.worker.jobs.errors import BAD_INPUT

    worker = _settings("docmill-worker")
    assert worker["Restart"] == "on-failure"
    assert worker["RestartPreventExitStatus"] == str(BAD_INPUT)
    assert worker["StartLimitIntervalSec"] == "0"
    assert worker["OOMPolicy"] == "continue"


def test_every_setting_that_the_units_and_the_page_name_is_one() -> None:
    known = {f"DOCMILL_{name.upper()}" for name in Settings.model_fields}
    for text in (PAGE, *(unit.read_text() for unit in UNITS)):
        assert set(re.findall(r"\bDOCMILL_[A-Z_]+", text)) <= known


def test_the_page_says_the_times_that_the_unit_has() -> None:
    assert f"after {_settings('docmill-worker')['TimeoutStopSec']} s (`TimeoutStopSec`" in PAGE
    assert f"`DOCMILL_DRAIN_S`, {Settings.model_fields['drain_s'].default:.0f} s" in PAGE
