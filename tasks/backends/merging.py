"""Merge a LoRA adapter into a model's weights, by PEFT in float32."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoConfig

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.backends import accelerator
from docmill.tasks.backends.loading import AUTO_CLASSES, missing_weights, require_loaded
from docmill.tasks.errors import ModelUnsuitable
from docmill.tasks.models.adapters import Adapter
from docmill.tasks.models.families import Description
from docmill.tasks.models.weights import folder_files
from docmill.tasks.outputs import TRAINED, Head

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel


log = logging.getLogger("docmill.backends")

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")


def require_fits(spec: Spec, folder: Path, adapter_folder: Path) -> bool:
    """Raise ModelUnsuitable unless each weight of the adapter has a place in the model. Reads no weights.

    Returns True if the adapter brings the head that the model lacks.
    """
    adapter = Adapter.of_folder(spec.params["adapter"], adapter_folder)
    config = Description.of_folder(folder).config
    head = kinds.kind(spec.kind).adapted_head(spec, config)
    with accelerator.quiet(), torch.device("meta"):
        model = AUTO_CLASSES[head].from_config(_config(folder, adapter, head))
    _require_places(adapter, model, spec.model)
    return adapter.completed(config) is not config


def merge(spec: Spec, folder: Path, adapter_folder: Path, head: Head, target: Path) -> None:
    """Save the merged model of a spec in a folder. Raises ModelUnsuitable where the adapter does not fit."""
    from peft import PeftModel

    adapter = Adapter.of_folder(spec.params["adapter"], adapter_folder)
    # PEFT warns about names that transformers changed.
    with accelerator.quiet(), warnings.catch_warnings(action="ignore"), torch.no_grad():
        config = _config(folder, adapter, head)
        with missing_weights() as missing:
            base = AUTO_CLASSES[head].from_pretrained(
                folder, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
            )
        _require_places(adapter, base, spec.model)
        require_loaded(missing, spec, unused=[*adapter.saved, "pooler."])
        is_untied = _untie(adapter, base)
        whole = PeftModel.from_pretrained(base, str(adapter_folder), torch_device="cpu")
        model = whole.merge_and_unload(safe_merge=True)
        model.save_pretrained(target)
    # Weights in other folders belong to the modules after the merged one.
    kept = [name for name in folder_files(folder) if "/" in name or not name.endswith(_WEIGHTS)]
    for name in kept:
        if name != "config.json" or head not in TRAINED:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, target / name)
    if is_untied:  # vLLM ignores the head's weights if the config says that they are tied
        own = json.loads((folder / "config.json").read_bytes()) | {"tie_word_embeddings": False}
        (target / "config.json").write_text(json.dumps(own))
    log.info("adapter_merged model=%s adapter=%s", spec.model, adapter.name)


def _config(folder: Path, adapter: Adapter, head: Head) -> PretrainedConfig:
    """Return the model's config with the labels of a head that the adapter brings."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if head in TRAINED and "id2label" in (completed := adapter.completed(config.to_dict())):
        config.id2label = {int(number): str(label) for number, label in completed["id2label"].items()}
        config.label2id = {label: number for number, label in config.id2label.items()}
    return config


def _untie(adapter: Adapter, model: PreTrainedModel) -> bool:
    """Untie two layers if the adapter changes one of them: PEFT would merge the adapter into both.

    Returns True if the model's config now says that they are not tied.
    """
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or head.weight is not table.weight:
        return False
    tied = {name for name, module in model.named_modules() if module in (table, head)}
    if tied.isdisjoint(weight.partition(".lora_")[0].removesuffix(".weight") for weight in adapter.shapes):
        return False
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    if model.config.is_encoder_decoder:  # a T5 scales its outputs only if its config says that they are tied
        return False
    model.config.tie_word_embeddings = False
    return True


def _require_places(adapter: Adapter, model: PreTrainedModel, name: str) -> None:
    """Raise ModelUnsuitable for a weight of the adapter without a place of its shape in the model."""
    modules, weights = dict(model.named_modules()), dict(model.state_dict())
    for weight, shape in adapter.shapes.items():
        module, lora, rest = weight.partition(".lora_")
        if not lora:
            expected = tuple(weights[weight].shape) if weight in weights else None
            fits = expected == shape
        else:
            expected = _sides(modules.get(module))
            fits = expected is not None and _fits(rest, shape, expected)
        if not fits:
            wanted = "no such weights" if expected is None else f"{' × '.join(map(str, expected))} there"
            raise ModelUnsuitable(
                f"{adapter.name} is an adapter of another model or for another task: its {weight} "
                f"({' × '.join(map(str, shape))}) does not fit {name}, which has {wanted}."
            )


def _sides(module: nn.Module | None) -> tuple[int, int] | None:
    """Return the numbers of inputs and outputs of a module that LoRA can adapt; None for another module."""
    weight = getattr(module, "weight", None)
    if weight is None or weight.dim() != 2:
        return None
    first, second = weight.shape
    # The weight of an embedding and of transformers' Conv1D has inputs first, that of a linear layer outputs first.
    return (second, first) if isinstance(module, torch.nn.Linear) else (first, second)


def _fits(part: str, shape: tuple[int, ...], sides: tuple[int, int]) -> bool:
    """Return True if a matrix of LoRA, such as `A.weight`, fits a module with these numbers of inputs and outputs."""
    inputs, outputs = sides
    if part.startswith(("A.", "embedding_A")):
        return shape[-1] == inputs
    if part.startswith(("B.", "embedding_B")):
        return shape[0] == outputs
    return True
