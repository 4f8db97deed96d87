"""LoRA adapters as PEFT saves them: a folder with small matrices that are added to a base model's weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docmill.tasks.errors import ModelCorrupt, ModelNotFound, ModelUnsuitable
from docmill.tasks.models import families, hub, weights
from docmill.tasks.models.families import read_object
from docmill.tasks.models.weights import ADAPTER_CONFIG

WEIGHTS = "adapter_model.safetensors"
FILES = (ADAPTER_CONFIG, WEIGHTS)
_PREFIX = "base_model.model."
_LORA = ".lora_"
_BASE_LAYER = ".base_layer."  # in the names of adapted embeddings, which PEFT saves, too
# The heads in adapters, by PEFT's name of the task.
_HEADS = {
    "SEQ_CLS": "SequenceClassification",
    "TOKEN_CLS": "TokenClassification",
    "QUESTION_ANS": "QuestionAnswering",
}
_LAST_LAYERS = ("classifier.weight", "score.weight", "out_proj.weight", "qa_outputs.weight")


@dataclass(frozen=True)
class Adapter:
    """An adapter's config, and the shapes of its weights by their names in the base model's class."""

    name: str
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of_folder(cls, name: str, folder: Path) -> Adapter:
        """Read an adapter. Raises ModelNotFound, ModelCorrupt, and ModelUnsuitable if it is no LoRA."""
        require_whole(name, folder)
        config = read_object(folder / ADAPTER_CONFIG)
        if (kind := config.get("peft_type")) != "LORA":
            raise ModelUnsuitable(f"{name} is an adapter of the type {kind}: docmill takes LoRA adapters.")
        return cls(name, config, _shapes(folder / WEIGHTS))

    @property
    def saved(self) -> Mapping[str, tuple[int, ...]]:
        """The weights that replace those of the base, such as a classifier's head."""
        return {name: shape for name, shape in self.shapes.items() if _LORA not in name}

    def require_base(self, model: str, *, is_local: bool) -> None:
        """Raise ModelUnsuitable if the adapter names another base on the hub.

        Only the last parts of the ids are compared, since models have copies under other owners.
        """
        base = self.config.get("base_model_name_or_path")
        if is_local or not isinstance(base, str) or not hub.HUB_ID.fullmatch(base):
            return
        if base.rpartition("/")[2].lower() != model.rpartition("/")[2].lower():
            raise ModelUnsuitable(f"{self.name} is an adapter of {base}, not of {model}: use --model {base}.")

    def completed(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a base model's config with the adapter's head, if the base has none."""
        head = _HEADS.get(str(self.config.get("task_type")))
        last = next((shape for name, shape in self.saved.items() if name.endswith(_LAST_LAYERS)), None)
        if head is None or last is None or families.classifier(config) is not None:
            return config
        labels = {str(number): f"LABEL_{number}" for number in range(last[0])} | self._names(last[0])
        design = re.split("Model|For", next(iter(config.get("architectures") or ["Base"])))[0]
        return {**config, "architectures": [f"{design}For{head}"], "id2label": labels}

    def _names(self, n_labels: int) -> dict[str, str]:
        """Return the labels by their numbers, if the adapter's config has all of them.

        PEFT neither writes nor reads them, so the author of the adapter has added them.
        """
        labels = self.config.get("id2label")
        named = {str(number): str(label) for number, label in labels.items()} if isinstance(labels, dict) else {}
        return named if named.keys() == {str(number) for number in range(n_labels)} else {}


def require_whole(name: str, folder: Path) -> None:
    """Raise ModelNotFound if a folder lacks the files of an adapter, ModelCorrupt if they are cut short."""
    lacking = [file for file in FILES if not (folder / file).is_file()]
    if lacking:
        raise ModelNotFound(
            f"{name} is no adapter that docmill reads: it has no {' and no '.join(lacking)}. An adapter is a folder "
            "that PEFT's save_pretrained writes."
        )
    weights.require_files(folder, FILES)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes in a safetensors file by the weights' names in the base model."""
    _, tensors = weights.read_header(path)
    try:
        return {
            name.removeprefix(_PREFIX).replace(_BASE_LAYER, "."): tuple(tensor["shape"])
            for name, tensor in tensors.items()
        }
    except (LookupError, TypeError) as error:
        raise ModelCorrupt(f"{path} is no safetensors file.") from error
