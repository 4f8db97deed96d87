"""The adapters that come with docmill are small, and have cards and descriptions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from docmill.tasks.errors import ModelNotFound, ModelUnsuitable
from docmill.tasks.models import adapters, weightless, weights
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from tests.tasks.conftest import EXAMPLES

MODELS = EXAMPLES / "models"
MOST_BYTES = 3_000_000


@pytest.mark.parametrize("name", pinning.ADAPTED)
def test_a_shipped_adapter_is_small_has_a_card_and_is_the_same_spec_by_both_its_names(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = MODELS / name
    assert sum(file.stat().st_size for file in folder.iterdir()) <= MOST_BYTES
    assert {file.name for file in folder.iterdir()} == {*adapters.FILES, "README.md"}
    saved = json.loads((folder / weights.ADAPTER_CONFIG).read_text())
    assert saved["base_model_name_or_path"].endswith("/all-MiniLM-L6-v2")
    base = pinning.ADAPTED[name]
    folders = ModelFolders(None, tmp_path)
    pinned, config = pinning.pin_with_adapter(name, None, folders)
    assert (pinned, config) == pinning.pin_with_adapter(base, name, folders)
    assert pinned.beside[pinning.ADAPTER_REVISION] in pinning.SHIPPED
    with pytest.raises(ModelUnsuitable, match=f"{name} is an adapter of {base}, and takes no other"):
        pinning.pin_with_adapter(name, "another", folders)
    monkeypatch.setattr(pinning, "ALIASES", {**pinning.ALIASES, name: str(tmp_path / name)})
    with pytest.raises(ModelNotFound, match=f"{name} is not on this machine"):
        pinning.pin_with_adapter(name, None, folders)


def test_every_name_of_a_model_is_described() -> None:
    assert set(pinning.NAMES) == {*pinning.ALIASES, weightless.PATTERNS, weightless.NULL}
