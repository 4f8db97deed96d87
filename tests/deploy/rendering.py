"""A process that checks and renders the chart with Helm's own engine: values as JSON on stdin, the answers on stdout.

A process of its own, since the engine is a library in Go, which brings threads and signal handlers along.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    """Answer each of the values with the rendered files and the linter's messages, or with the error."""
    import helm_python as helm

    folder = sys.argv[1]
    answers: list[dict[str, Any]] = []
    with helm.Chart.load(folder) as chart:
        for values in json.load(sys.stdin):
            try:
                chart.validate_schema(values)
                files = chart.render(values, name="docmill", namespace="default")
            except helm.HelmError as error:
                answers.append({"error": str(error)})
                continue
            lint = helm.lint(folder, values, strict=True)
            manifests = {name: text for name, text in files.items() if name.endswith(".yaml")}
            answers.append(
                {"files": manifests, "problems": [said for said in lint["messages"] if said["severity"] > 1]}
            )
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
