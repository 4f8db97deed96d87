"""A Prometheus that scrapes each second, with docmill's rules on a quicker clock."""

from __future__ import annotations

import json
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.faults.servers import HOST, Missing, Server
from tests.worker.harness import ROOT

RULES = ROOT / "deploy" / "prometheus" / "docmill.rules.yml"
PATIENCE = "2s"  # in place of each `for`
RANGES = {"[30m]": "[120s]"}
SECONDS = {"> 900": "> 2"}


def quick_rules() -> str:
    """Return the rules with `for`, ranges and bounds in seconds made short. Nothing else is changed."""
    given = yaml.safe_load(RULES.read_text())
    for group in given["groups"]:
        group["interval"] = "1s"
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = PATIENCE
            for before, after in (RANGES | SECONDS).items():
                rule["expr"] = rule["expr"].replace(before, after)
            assert not re.search(r"\[\d+m\]", rule["expr"])
    return yaml.safe_dump(given)


class Prometheus(Server):
    """A Prometheus with a folder and a port of its own. Raises Missing."""

    def __init__(self, folder: Path, targets: Mapping[str, int]) -> None:
        """`targets` are the ports to scrape, by the names of jobs."""
        program = shutil.which("prometheus")
        if program is None:
            raise Missing("there is no prometheus")
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, [])
        (folder / "docmill.rules.yml").write_text(quick_rules())
        scraped = [
            {"job_name": name, "static_configs": [{"targets": [f"{HOST}:{port}"]}]} for name, port in targets.items()
        ]
        every = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config = {"global": every, "rule_files": ["docmill.rules.yml"], "scrape_configs": scraped}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._command = [
            program,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={HOST}:{self.port}",
        ]

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}/-/ready", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        return {one["labels"]["alertname"] for one in self._asked("alerts")["alerts"] if one["state"] == "firing"}

    def knows(self, query: str) -> bool:
        """Return True if a query has an answer now."""
        return bool(self._asked(f"query?{urllib.parse.urlencode({'query': query})}")["result"])

    def _asked(self, what: str) -> Any:
        with urllib.request.urlopen(f"http://{HOST}:{self.port}/api/v1/{what}", timeout=10) as answer:
            return json.loads(answer.read())["data"]
