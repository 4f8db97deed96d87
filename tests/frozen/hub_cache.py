"""A cache of the model hub's client that holds models' small files, and no weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def fill(cache: Path, models: Mapping[str, Mapping[str, Any]]) -> None:
    """Write each model's files to the cache, under its commit, as if they had been downloaded."""
    for name, model in models.items():
        if not name.startswith("hub/"):
            continue
        folder = cache / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(model["revision"])
        snapshot = folder / "snapshots" / model["revision"]
        snapshot.mkdir(parents=True)
        if model["config"]:
            (snapshot / "config.json").write_text(json.dumps(model["config"]))
        if "prompts" in model:
            (snapshot / "config_sentence_transformers.json").write_text(json.dumps(model["prompts"]))
