"""Fault points: inert without their setting, and exact with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from docmill.worker import fault_points
from docmill.worker.errors import SettingsError
from docmill.worker.fault_points import STRUCK, Fault, InjectedFault, parse
from docmill.worker.settings import load_settings
from tests.worker.harness import until


@pytest.fixture(autouse=True)
def _disarmed_afterwards(tmp_path: Path) -> Iterator[None]:
    yield
    fault_points.arm(None, tmp_path)


def test_without_the_setting_a_point_does_nothing(tmp_path: Path) -> None:
    fault_points.arm(None, tmp_path)
    for point in fault_points.POINTS:
        fault_points.reach(point)
    lines = [b"a", b"b"]
    assert fault_points.along("export", lines) is lines
    assert fault_points.armed() is None
    assert list(tmp_path.iterdir()) == []


def test_a_fault_strikes_at_the_nth_time_and_once_for_a_home(tmp_path: Path) -> None:
    fault_points.arm("claimed:error@3", tmp_path)
    fault_points.reach("claimed")
    fault_points.reach("computed")
    fault_points.reach("claimed")
    with pytest.raises(InjectedFault):
        fault_points.reach("claimed")
    assert (tmp_path / STRUCK).read_text().endswith(" claimed:error\n")
    fault_points.arm("claimed:error", tmp_path)  # the process that takes over
    fault_points.reach("claimed")


def test_a_process_that_hangs_goes_on_once_the_file_of_strikes_is_empty(tmp_path: Path) -> None:
    fault_points.arm("claimed:hang", tmp_path)
    hanging = threading.Thread(target=fault_points.reach, args=("claimed",))
    hanging.start()
    until(lambda: (tmp_path / STRUCK).exists() and (tmp_path / STRUCK).read_text(), "it hangs")
    assert hanging.is_alive()
    (tmp_path / STRUCK).write_text("")
    hanging.join()
    fault_points.reach("claimed")  # once for a home


def test_an_output_is_cut_short_after_some_lines(tmp_path: Path) -> None:
    fault_points.arm("export:error@2", tmp_path)
    got: list[bytes] = []
    with pytest.raises(InjectedFault):
        got.extend(fault_points.along("export", [b"a", b"b", b"c"]))
    assert got == [b"a", b"b"]


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ("taken:kill", Fault("taken", "kill")),
        ("enqueue:error@12", Fault("enqueue", "error", 12)),
        ("text:oom@300", Fault("text", "oom", 300)),
        ("cut:hang", Fault("cut", "hang")),
    ],
)
def test_a_setting_names_a_point_an_action_and_a_number(setting: str, fault: Fault) -> None:
    assert parse(setting) == fault


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("nowhere:kill", "unknown fault point 'nowhere'; there are taken"),
        ("taken:explode", "unknown action 'explode' of fault point taken; there are kill, hang, error"),
        ("taken:oom", "unknown action 'oom'"),
        ("taken", "unknown action ''"),
        ("taken:kill@0", "a fault's number is a whole number above 0"),
        ("taken:kill@-1", "a fault's number is a whole number above 0"),
    ],
)
def test_an_unknown_fault_is_a_settings_error(
    setting: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCMILL_FAULT", setting)
    with pytest.raises(SettingsError, match="DOCMILL_FAULT: " + problem[:20]):
        load_settings()
