"""The verdicts on models of a hub by their headers, and on the same files in folders, in a process of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.errors import TaskError
from docmill.tasks.models import hub


def main() -> None:
    """Read an order from the standard input, and write the two verdicts for each model and kind of task."""
    order = json.load(sys.stdin)
    cache, commit = Path(order["cache_dir"]), order["commit"]
    answers = {}
    for model, folder in order["models"].items():
        config = json.loads((Path(folder) / "config.json").read_bytes())
        suiting = [kind for kind in kinds.NAMES if kinds.kind(kind).suits_family(config)]
        for kind in suiting if model in order["of_every_kind"] else suiting[:1]:
            spec = Spec(kind, model, commit, "float32", {"prompt": "{text}"} if kind == "generate" else {})
            with hub.outline(model, commit, 120) as outline:
                found = [_verdict(spec, place, cache) for place in (Path(folder), outline)]
            answers[f"{model} {kind}"] = found
    print("\n" + json.dumps(answers))


def _verdict(spec: Spec, folder: Path, cache: Path) -> str | None:
    from docmill.tasks.backends import reading

    config = json.loads((folder / "config.json").read_bytes())
    try:
        reading.require_weights(spec, folder, config, cache)
    except TaskError as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error).replace(str(folder), '')}"
    return None
