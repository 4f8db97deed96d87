"""Prometheus and Grafana of compose's profile `monitoring` find each other, the exporter, rules and dashboard."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from docmill.features.metrics.command import metrics_command
from docmill.worker.settings import Settings
from tests.conftest import missing
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
        pytest.skip("promtool is not on this machine")
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


def lost(board: Any) -> list[str]:
    """Return the places of a dashboard that Grafana's own types, which its schema generates, lack or change."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    read = Dashboard.from_json(json.loads(json.dumps(board)))
    return [*differences(board, json.loads(json.dumps(read, cls=JSONEncoder)))]


def differences(given: Any, read: Any, at: str = "") -> Iterator[str]:
    """Yield the places where `read` lacks something of `given` or has another value. It may have more: defaults."""
    if isinstance(given, dict) and isinstance(read, dict):
        for key, value in given.items():
            yield from differences(value, read.get(key, Ellipsis), f"{at}.{key}")
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        for number, (one, other) in enumerate(zip(given, read, strict=True)):
            yield from differences(one, other, f"{at}.{number}")
    elif given != read:
        yield at.removeprefix(".")


def test_grafanas_own_types_know_every_field_of_the_dashboard() -> None:
    if find_spec("grafana_foundation_sdk") is None:
        missing("grafana-foundation-sdk is not installed")
    assert lost(BOARD) == []
    wrong = json.loads(json.dumps(BOARD))
    wrong["panels"][0]["fieldConfig"]["defaults"]["units"] = "s"
    wrong["panels"][1]["gridpos"] = {}
    wrong["panels"][-1]["options"]["wrap"] = True  # of a table, which has an option of another name
    assert lost(wrong) == [
        "panels.0.fieldConfig.defaults.units",
        "panels.1.gridpos",
        f"panels.{len(BOARD['panels']) - 1}.options.wrap",
    ]


@pytest.mark.parametrize("service", ["exporter", "prometheus", "grafana"])
def test_a_service_of_the_profile_starts_with_it_alone(service: str) -> None:
    assert SERVICES[service]["profiles"] == ["monitoring"]


def test_each_query_of_the_dashboard_and_of_the_rules_is_promql() -> None:
    queries = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
    for query in [*queries, *(rule["expr"] for rule in RULES)]:
        promql_parser.parse(query.replace("$__rate_interval", "1m"))
    with pytest.raises(ValueError, match="unclosed"):
        promql_parser.parse("sum by (lane (docmill_shards)")
