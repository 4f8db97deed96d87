"""The alert rules for Prometheus with their runbook, and the dashboard for Grafana."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import yaml

from docmill.worker.process.counts import COUNTERS, GAUGES
from tests.faults.servers import missing
from tests.features.metrics.test_fleet import NAMES
from tests.worker.harness import ROOT

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


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\bdocmill_\w+", expression))


def test_an_alert_names_metrics_that_there_are_and_is_caused_in_the_tests_of_the_rules() -> None:
    for rule in RULES:
        assert metrics_in(rule["expr"]), rule
        assert metrics_in(rule["expr"]) <= METRICS, rule
        assert f'alertname="{rule["alert"]}"' in TESTED


def test_the_dashboard_names_metrics_that_there_are() -> None:
    board = json.loads((ROOT / "deploy" / "grafana" / "docmill.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            assert metrics_in(target["expr"]), panel["title"]
            assert metrics_in(target["expr"]) <= METRICS, panel["title"]
            assert target["datasource"]["uid"] == "${source}"


def test_prometheus_fires_each_alert_and_none_for_a_healthy_fleet() -> None:
    if shutil.which("promtool") is None:
        missing("promtool is not on this machine")
    promtool = subprocess.run(
        ["promtool", "test", "rules", "docmill.rules.test.yml"], cwd=FOLDER, capture_output=True, text=True
    )
    assert promtool.returncode == 0, promtool.stdout + promtool.stderr
