"""The parts of a model's folder that every generating backend reads before the weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.backends import accelerator
from docmill.tasks.backends.convert import safe_folder
from docmill.tasks.backends.decoding import own_settings
from docmill.tasks.backends.loading import NotTold, hollow, reported
from docmill.tasks.errors import ModelUnsuitable

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


class AutoModel(Protocol):
    """A class of transformers that loads models of many types (``AutoModelFor…``)."""

    def from_pretrained(self, folder: Path, **options: object) -> PreTrainedModel: ...


@dataclass(frozen=True)
class Opening:
    """A folder with weights as safetensors, the model's config and its tokenizer, from transformers."""

    spec: Spec
    folder: Path
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def of(cls, spec: Spec, folder: Path, cache_dir: Path) -> Opening:
        """Raises ModelUnsuitable where the model is not of a family that does the spec's task."""
        folder = safe_folder(folder, spec.revision, cache_dir)
        with accelerator.quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            kinds.kind(spec.kind).require(config.to_dict(), spec.model, spec.params)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        return cls(spec, folder, config, tokenizer)

    def model(self, kind: AutoModel, dtype: torch.dtype) -> PreTrainedModel:
        """The model with its weights, ready to compute on a CPU.

        Raises WeightsMissing.
        """
        with accelerator.quiet(), reported() as report:
            loaded = kind.from_pretrained(self.folder, dtype=dtype, use_safetensors=True, trust_remote_code=False)
        report.require(self.spec.model, self.spec.kind)
        return loaded.eval()

    def require_weights(self, kind: AutoModel) -> PreTrainedModel | None:
        """Raise WeightsMissing where ``model`` would, without reading the weights; for libraries that read their own.

        Returns the model without its weights, or None where only loading it can tell.
        """
        try:
            with accelerator.quiet(), hollow(), reported() as report:
                found = kind.from_pretrained(self.folder, config=self.config, trust_remote_code=False)
        except NotTold:
            return None
        report.require(self.spec.model, self.spec.kind)
        return found


def require_keys_and_values(model: PreTrainedModel, name: str) -> None:
    """Raise ModelUnsuitable for a decoder whose layers keep a state of their own."""
    if model._is_stateful:
        raise ModelUnsuitable(f"{name} keeps a state of its own in place of keys and values: it does not write here.")


def generation_settings(folder: Path) -> GenerationConfig:
    """The GenerationConfig that transformers would give the model of this folder."""
    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:  # older models keep it in their config
        return GenerationConfig.from_pretrained(folder, config_file_name="config.json", _from_model_config=True)


def stated_settings(opening: Opening) -> dict[str, Any]:
    """Everything that the model's files say of generation, also entries that transformers does not know."""
    file = opening.folder / "generation_config.json"
    stated = json.loads(file.read_bytes()) if file.exists() else {}
    known = {
        name: value for name, value in generation_settings(opening.folder).to_dict().items() if value is not None
    }
    return own_settings(opening.config.to_dict(), {**stated, **known})
