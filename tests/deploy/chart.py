"""The chart of deploy/helm as Helm renders it. `python -m tests.deploy.chart` pins the rendered files anew."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from tests.worker.harness import ROOT

FOLDER = ROOT / "deploy" / "helm" / "docmill"
PINNED = Path(__file__).parent / "rendered"
URLS = {
    "connection": {
        "databaseUrl": "postgresql://docmill_worker:two@db.example:5432/docmill",
        "redisUrl": "redis://docmill-worker:two@queue.example:6379/0",
        "owner": {"databaseUrl": "postgresql://docmill_owner:one@db.example:5432/docmill"},
        "admin": {"databaseUrl": "postgresql://docmill_orders:five@db.example:5432/docmill"},
    }
}
Values = Mapping[str, Any]
Manifest = dict[str, Any]
HAS_HELM = find_spec("helm_python") is not None


def example(name: str) -> Values:
    """Return the values of an example of the chart."""
    values: Values = yaml.safe_load((FOLDER / "examples" / f"{name}.yaml").read_text())
    return values


# Urls given as values, with the chart's defaults; and the fleet of GPUs, with Secrets.
CASES: Mapping[str, Values] = {"default": URLS, "gpu": example("gpu")}


@dataclass(frozen=True)
class Rendered:
    """The files that the chart gives, by their names, and the linter's warnings; or the error in their place."""

    files: Mapping[str, str]
    problems: tuple[Mapping[str, Any], ...] = ()
    error: str | None = None

    @property
    def text(self) -> str:
        return "".join(f"# {name}\n{text.strip()}\n" for name, text in sorted(self.files.items()) if text.strip())

    @cached_property
    def manifests(self) -> list[Manifest]:
        return [one for text in self.files.values() for one in yaml.safe_load_all(text) if one]

    def named(self, kind: str, name: str) -> Manifest:
        """Return the manifest of this kind and name."""
        [found] = [one for one in self.manifests if (one["kind"], one["metadata"]["name"]) == (kind, name)]
        return found


def render(*wanted: Values, chart: Path = FOLDER) -> list[Rendered]:
    """Render a chart, a folder or a package, with each of the values, in one process."""
    command = [sys.executable, "-m", "tests.deploy.rendering", str(chart)]
    told = subprocess.run(command, input=json.dumps(wanted), capture_output=True, text=True, cwd=ROOT)
    assert told.returncode == 0, told.stderr
    return [
        Rendered({}, error=answer["error"])
        if "error" in answer
        else Rendered(answer["files"], tuple(answer["problems"]))
        for answer in json.loads(told.stdout)
    ]


@cache
def cases() -> Mapping[str, Rendered]:
    """Return the pinned cases as the chart renders them now."""
    return dict(zip(CASES, render(*CASES.values()), strict=True))


def pinned(name: str) -> str:
    return (PINNED / f"{name}.yaml").read_text()


def pod_specs(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Yield the name and the pod of each manifest that makes pods."""
    for one in manifests:
        spec = one.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield one["metadata"]["name"], spec["template"]["spec"]


if __name__ == "__main__":
    PINNED.mkdir(exist_ok=True)
    for name, rendered in cases().items():
        assert rendered.error is None, rendered.error
        (PINNED / f"{name}.yaml").write_text(rendered.text)
