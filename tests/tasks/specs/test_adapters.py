"""Adapters on the hub: pinned by their commit, and fetched once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.tasks.hub_server import COMMIT, Hub, serving
from tests.worker.harness import run_program

PROGRAM = """
import json, sys
from pathlib import Path
from docmill.storage.core.specs import Spec
from docmill.tasks.errors import TaskError
from docmill.tasks.specs import adapters
from docmill.tasks.specs.pinning import Pinned

answers, cache = [], Path(sys.argv[1])
for name in ("org/adapter", "org/base"):
    try:
        base = Pinned("org/base", "0" * 40)
        pinned, config = adapters.with_adapter(base, {"model_type": "bert"}, name, models_dir=None, cache_dir=cache)
        spec = Spec("classify", base.model, base.revision, params=pinned.beside)
        folder = adapters.locate(spec, models_dir=None, cache_dir=cache)
        files = sorted(path.name for path in folder.iterdir())
        answers.append([dict(pinned.beside), dict(config["id2label"]), files])
    except TaskError as error:
        answers.append([type(error).__name__, str(error)])
print(json.dumps(answers))
"""


def test_an_adapter_of_the_hub_is_pinned_by_its_commit_and_brings_its_head(tmp_path: Path) -> None:
    adapter, base = tmp_path / "adapter", tmp_path / "base"
    adapter.mkdir()
    base.mkdir()
    config = {"peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": "org/base"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "README.md").write_text("An adapter.")
    (base / "config.json").write_text("{}")
    save_file({"base_model.model.classifier.weight": torch.zeros(2, 4)}, adapter / "adapter_model.safetensors")
    with serving(Hub({"org/adapter": adapter, "org/base": base})) as hub:
        settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        said = run_program(PROGRAM, tmp_path / "cache", environment={**os.environ, **settings})
    found, refused = json.loads(said)
    assert found == [
        {"adapter": "org/adapter", "adapter_revision": COMMIT},
        {"0": "LABEL_0", "1": "LABEL_1"},
        ["adapter_config.json", "adapter_model.safetensors"],
    ]
    assert refused == [
        "ModelNotFound",
        "org/base on the hub is no adapter that docmill reads: it has no adapter_config.json.",
    ]
