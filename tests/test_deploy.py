"""The units for systemd, and what docs/deploy.md says beside them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from docmill.worker.settings import Settings
from tests.faults.servers import missing
from tests.test_compose import SERVICES
from tests.worker.harness import ROOT

UNITS = sorted((ROOT / "deploy" / "systemd").glob("docmill-*.*"))
PROGRAM = "/opt/docmill/bin/docmill"


def _settings(unit: str) -> dict[str, str]:
    lines = (ROOT / "deploy" / "systemd" / f"{unit}.service").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze is not on this machine")
    for unit in UNITS:  # it looks whether the program is there
        (tmp_path / unit.name).write_text(unit.read_text().replace(PROGRAM, "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / unit.name) for unit in UNITS)]
    verified = subprocess.run(command, capture_output=True, text=True)
    report = verified.stdout + verified.stderr
    assert verified.returncode == 0, report
    assert "docmill" not in report


def test_a_stopping_worker_is_told_by_sigterm_and_gets_as_much_time_as_with_compose() -> None:
    worker = _settings("docmill-worker")
    assert (worker["KillSignal"], worker["KillMode"]) == ("SIGTERM", "mixed")
    stop_s = int(worker["TimeoutStopSec"])
    assert stop_s >= Settings.model_fields["drain_s"].default + 10
    assert {SERVICES[name]["stop_grace_period"] for name in ("worker", "worker-gpu")} == {f"{stop_s}s"}
