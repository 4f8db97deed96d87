"""The alert rules for Prometheus with their runbook, and the dashboard for Grafana."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
import yaml

from docmill.worker.metrics.work import COUNTERS, GAUGES
from tests.worker.harness import ROOT
from tests.worker.metrics.test_fleet import NAMES

FOLDER = ROOT / "deploy" / "prometheus"
RULES = [
    rule for group in yaml.safe_load((FOLDER / "docmill.rules.yml").read_text())["groups"] for rule in group["rules"]
]
OF_WORKERS = (*(f"{name}_total" for name in (*COUNTERS, "deaths")), *GAUGES)
METRICS = NAMES.keys() | {f"docmill_worker_{name}" for name in OF_WORKERS}
TESTED = (FOLDER / "docmill.rules.test.yml").read_text()


def test_each_alert_has_its_section_in_the_runbook() -> None:
    page = (ROOT / "docs" / "runbook.md").read_text()
    assert re.findall(r"^## (Docmill\w+)$", page, re.MULTILINE) == [rule["alert"] for rule in RULES]
    for section in re.split(r"^## Docmill", page, flags=re.MULTILINE)[1:]:
        asked = re.findall(r"^- \*\*(.+?):\*\* \S", section, re.MULTILINE)
        assert asked == ["Meaning", "Look at", "Do", "Tried"], section


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\bdocmill_\w+", expression))


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_names_metrics_that_there_are(rule: dict[str, str]) -> None:
    assert metrics_in(rule["expr"])
    assert metrics_in(rule["expr"]) <= METRICS


def test_the_dashboard_names_metrics_that_there_are_and_its_panels_do_not_overlap() -> None:
    board = json.loads((ROOT / "deploy" / "grafana" / "docmill.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        for target in panel["targets"]:
            assert metrics_in(target["expr"]), panel["title"]
            assert metrics_in(target["expr"]) <= METRICS, panel["title"]
            assert target["datasource"]["uid"] == "${source}"
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_is_caused_in_the_tests_of_the_rules(rule: dict[str, object]) -> None:
    assert f'alertname="{rule["alert"]}"' in TESTED


def test_prometheus_fires_each_alert_and_none_for_a_healthy_fleet() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not on this machine")
    told = subprocess.run(
        ["promtool", "test", "rules", "docmill.rules.test.yml"], cwd=FOLDER, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stdout + told.stderr
