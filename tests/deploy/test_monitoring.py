"""Prometheus and Grafana of compose's profile `monitoring` find each other, the exporter, rules and dashboard."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from docmill.features.metrics.command import metrics_command
from docmill.worker.settings import Settings
from tests.faults.servers import missing
from tests.features.metrics.test_alerts import FOLDER, RULES
from tests.test_compose import SERVICES
from tests.worker.harness import ROOT

GRAFANA = ROOT / "deploy" / "grafana"
BOARD = json.loads((GRAFANA / "docmill.json").read_text())
SCRAPED = {job["job_name"]: job for job in yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]}


def provisioned(kind: str) -> Any:
    """Return what Grafana is given of a kind: its files have this form, with version 1."""
    [file] = (GRAFANA / "provisioning" / kind).iterdir()
    read = yaml.safe_load(file.read_text())
    assert read.pop("apiVersion") == 1
    [[found]] = read.values()
    return found


def mounts(service: str) -> dict[str, Path]:
    """Return the folders and files of the project that a service sees, by their paths there."""
    volumes = [volume.split(":") for volume in SERVICES[service]["volumes"]]
    return {there: ROOT / here for here, there, *_ in volumes if here.startswith("./")}


def test_prometheus_finds_its_configuration_valid_with_the_alert_rules() -> None:
    if shutil.which("promtool") is None:
        missing("promtool is not on this machine")
    told = subprocess.run(
        ["promtool", "check", "config", str(FOLDER / "prometheus.yml")], capture_output=True, text=True
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert f"{len(RULES)} rules found" in told.stdout


def test_prometheus_reads_the_exporter_and_the_workers_that_compose_runs() -> None:
    assert mounts("prometheus")["/etc/prometheus"] == FOLDER
    assert "--config.file=/etc/prometheus/prometheus.yml" in SERVICES["prometheus"]["command"]
    [exporter] = SCRAPED["docmill"]["static_configs"]
    [port] = [option.default for option in metrics_command.params if option.name == "port"]
    assert exporter["targets"] == [f"exporter:{port}"]
    assert SERVICES["exporter"]["command"] == ["metrics", "--host", "0.0.0.0"]
    [workers] = SCRAPED["docmill-workers"]["dns_sd_configs"]
    assert set(workers["names"]) == {name for name in SERVICES if name.startswith("worker")}
    assert f"DOCMILL_METRICS_PORT={workers['port']}" in (ROOT / ".env.example").read_text()
    assert Settings.model_fields["metrics_port"].default is None


def test_grafana_is_given_prometheus_and_the_dashboard() -> None:
    source, provider = provisioned("datasources"), provisioned("dashboards")
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "http://prometheus:9090", True)
    seen = mounts("grafana")
    assert seen["/etc/grafana/provisioning"] == GRAFANA / "provisioning"
    assert seen[f"{provider['options']['path']}/docmill.json"] == GRAFANA / "docmill.json"
    assert SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] in seen
    [variable] = BOARD["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", source["type"])


def test_each_query_of_the_dashboard_and_of_the_rules_is_promql() -> None:
    queries = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
    for query in [*queries, *(rule["expr"] for rule in RULES)]:
        promql_parser.parse(query.replace("$__rate_interval", "1m"))
