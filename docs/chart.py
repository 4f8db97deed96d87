"""The page of the chart's values: their names and defaults, and the comment above each in values.yaml."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

VALUES = Path(__file__).parent.parent / "deploy" / "helm" / "docmill" / "values.yaml"
INTRODUCTION = """\
# Values of the chart

<!-- Written by `make reference` from deploy/helm/docmill/values.yaml. Change it there. -->

[Kubernetes](kubernetes.md) says how to use the chart. Unknown values are errors. A group in `workers` may have any
value of `workerDefaults`.

| value and default | meaning |
| --- | --- |
"""


def chart_values() -> str:
    """Return the page."""
    text = VALUES.read_text(encoding="utf-8")
    about = dict(comments(text))
    rows = [
        f"| `{name}`{shown(value)} | {about[name]} |\n" for name, value in leaves(yaml.safe_load(text), about=about)
    ]
    return INTRODUCTION + "".join(rows)


def comments(text: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted name of each key that has a comment above it, with the comment."""
    path: list[tuple[int, str]] = []
    said: list[str] = []
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if line.lstrip().startswith("# "):
            said.append(line.strip().removeprefix("# "))
            continue
        if ":" in line and not line.lstrip().startswith("- "):
            path = [(depth, name) for depth, name in path if depth < indent] + [(indent, line.strip().split(":")[0])]
            if said:
                yield ".".join(name for _, name in path), " ".join(said)
        said = []


def leaves(node: dict[str, Any], at: str = "", *, about: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """Yield each value that has a comment, with its dotted name. Raises KeyError for one that has none."""
    for key, value in node.items():
        name = f"{at}{key}"
        if name in about:
            yield name, value
        elif isinstance(value, dict):
            yield from leaves(value, f"{name}.", about=about)
        else:
            raise KeyError(f"{name} in {VALUES.name} has no comment above it")


def shown(value: object) -> str:
    """Return a default as the page has it."""
    return "" if value in ("", [], {}) else f": `{json.dumps(value)}`"
