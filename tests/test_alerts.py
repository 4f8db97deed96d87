"""The alert rules for Prometheus, and the runbook that explains them."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import yaml

from tests.worker.harness import ROOT
from tests.worker.metrics.test_fleet import NAMES
from worker.metrics.work import COUNTERS

FOLDER = ROOT / "deploy" / "prometheus"
RULES = [
    rule for group in yaml.safe_load((FOLDER / "docmill.rules.yml").read_text())["groups"] for rule in group["rules"]
]
TESTED = (FOLDER / "docmill.rules.test.yml").read_text()


def test_each_alert_has_its_section_in_the_runbook() -> None:
    page = (ROOT / "docs" / "runbook.md").read_text()
    assert re.findall(r"^## (Docmill\w+)$", page, re.MULTILINE) == [rule["alert"] for rule in RULES]


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_names_metrics_that_there_are(rule: dict[str, object]) -> None:
    counters = {f"docmill_worker_{name}_total" for name in (*COUNTERS, "deaths")}
    named = set(re.findall(r"\bdocmill_\w+", str(rule["expr"])))
    assert named
    assert named <= NAMES.keys() | counters


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
