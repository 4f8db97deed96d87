"""Open a model's folder with transformers: its config, tokenizer, weights and generation settings.

transformers sets weights that are missing, or have another shape, at random, and warns. Here that is an error, also
when another library such as sentence-transformers loads the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.backends import Assignment, accelerator
from docmill.tasks.backends.convert import index_files, safe_folder
from docmill.tasks.backends.decoding import own_settings
from docmill.tasks.errors import ModelCorrupt, ModelUnsuitable
from docmill.tasks.outputs import Head

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Loading joins experts that the files keep one by one, which takes as much memory as their weights.
_EXPERTS = ".experts."
_MOST_JOINED_BYTES = 4 << 30
_without_weights: ContextVar[bool] = ContextVar("without_weights", default=False)


# The class with which transformers loads a model with a head.
AUTO_CLASSES: Mapping[Head, Any] = MappingProxyType(
    {
        Head.POOLING: AutoModel,
        Head.CLASSIFICATION: AutoModelForSequenceClassification,
        Head.TAGGING: AutoModelForTokenClassification,
        Head.ANSWERING: AutoModelForQuestionAnswering,
        Head.VOCABULARY: AutoModelForMaskedLM,
        Head.SEQ2SEQ_TEXT: AutoModelForSeq2SeqLM,
        Head.CAUSAL_TEXT: AutoModelForCausalLM,
        Head.LIKELIHOOD: AutoModelForCausalLM,
    }
)

_FromPretrained = Callable[..., "tuple[PreTrainedModel, Mapping[str, Any]]"]


class WeightsNeeded(Exception):
    """The loading report of a model needs its weights: a quantized model, or a model with many experts."""


def require_loaded(missing: Iterable[str], spec: Spec, *, unused: Sequence[str] = ()) -> None:
    """Raise ModelCorrupt for missing weights. No output depends on names that begin with one of ``unused``."""
    names = sorted(name for name in missing if not name.startswith(tuple(unused)))
    if names:
        raise ModelCorrupt(
            f"The files of {spec.model} lack {len(names)} weights that {spec.kind} computes with, such as "
            f"{names[0]}; they would be random. Name a model that was trained for {spec.kind}, or copy or download "
            "the whole model."
        )


@contextmanager
def without_weights() -> Iterator[None]:
    """Load models in the block without their weights, from names and shapes only.

    Such a model takes almost no memory, and its outputs are meaningless, but its loading report is true. Raises
    WeightsNeeded if a report needs the weights.
    """
    before = _without_weights.set(True)
    try:
        yield
    finally:
        _without_weights.reset(before)


@contextmanager
def missing_weights() -> Iterator[list[str]]:
    """Collect the names of missing weights of the models that any library loads in the block. Not thread-safe."""
    from transformers import PreTrainedModel

    missing: list[str] = []
    from_pretrained = vars(PreTrainedModel)["from_pretrained"]
    load: Callable[..., PreTrainedModel] = _load_without_weights if _without_weights.get() else _load

    def load_and_collect(kind: type[PreTrainedModel], /, *arguments: object, **options: object) -> PreTrainedModel:
        return load(partial(from_pretrained.__func__, kind), missing, *arguments, **options)

    PreTrainedModel.from_pretrained = classmethod(load_and_collect)
    try:
        yield missing
    finally:
        PreTrainedModel.from_pretrained = from_pretrained


def _load(
    from_pretrained: _FromPretrained, missing: list[str], *arguments: object, **options: object
) -> PreTrainedModel:
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    model, info = from_pretrained(*arguments, **options)
    missing += _find_missing(model, info)
    return model


def _load_without_weights(
    from_pretrained: _FromPretrained,
    missing: list[str],
    folder: str | Path,
    *_: object,
    config: PretrainedConfig,
    subfolder: str | None = None,
    **__: object,
) -> PreTrainedModel:
    weights = _shapes(Path(folder) / (subfolder or ""))
    joined = sum(weight.nbytes for name, weight in weights.items() if _EXPERTS in name)
    if getattr(config, "quantization_config", None) is not None or joined > _MOST_JOINED_BYTES:
        raise WeightsNeeded
    dtype = next((weight.dtype for weight in weights.values() if weight.is_floating_point()), torch.float32)
    return _load(from_pretrained, missing, None, config=config, state_dict=weights, dtype=dtype)


def _find_missing(model: PreTrainedModel, info: Mapping[str, Any]) -> list[str]:
    """Return the names of weights that a loading report says the checkpoint lacks.

    A missing buffer was computed from the config. Tied weights are in no report.
    """
    computed = {name for name, _ in model.named_buffers()}
    return [*(set(info["missing_keys"]) - computed), *(name for name, *_ in info["mismatched_keys"])]


def _shapes(folder: Path) -> dict[str, torch.Tensor]:
    """Return tensors with the names, shapes and types of a folder's weights. Each holds a single number."""
    whole = folder / SAFE_WEIGHTS_NAME
    files = [whole] if whole.is_file() else index_files(folder / SAFE_WEIGHTS_INDEX_NAME)
    weights = {}
    for path in files:
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                part = file.get_slice(name)
                dtype = _DTYPES.get(part.get_dtype(), torch.float32)
                weights[name] = torch.zeros((), dtype=dtype).expand(part.get_shape())
    return weights


@dataclass(frozen=True)
class Opening:
    """A folder with weights as safetensors, the model's config and its tokenizer, from transformers."""

    spec: Spec
    head: Head
    folder: Path
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def of(cls, assignment: Assignment) -> Opening:
        """Open the files of an assignment's model. Raises ModelUnsuitable if the model cannot do the spec's task."""
        spec = assignment.spec
        folder = safe_folder(assignment.folder, spec.revision, assignment.cache_dir)
        with accelerator.quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            kinds.kind(spec.kind).require(config.to_dict(), spec.model, spec.params)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        return cls(spec, assignment.head, folder, config, tokenizer)

    def model(self, dtype: torch.dtype) -> PreTrainedModel:
        """Return the model with its weights, on a CPU. Raises ModelCorrupt."""
        with accelerator.quiet(), missing_weights() as missing:
            loaded = AUTO_CLASSES[self.head].from_pretrained(
                self.folder, dtype=dtype, use_safetensors=True, trust_remote_code=False
            )
        require_loaded(missing, self.spec)
        return loaded.eval()

    def require_weights(self) -> PreTrainedModel | None:
        """Raise ModelCorrupt for missing weights, without reading the others.

        Returns the model without its weights; None if only loading it can tell.
        """
        try:
            with accelerator.quiet(), without_weights(), missing_weights() as missing:
                model = AUTO_CLASSES[self.head].from_pretrained(
                    self.folder, config=self.config, trust_remote_code=False
                )
        except WeightsNeeded:
            return None
        require_loaded(missing, self.spec)
        return model


def require_keys_and_values(model: PreTrainedModel, name: str) -> None:
    """Raise ModelUnsuitable for a decoder whose layers keep a state in place of keys and values."""
    if model._is_stateful:
        raise ModelUnsuitable(f"{name} keeps a state in place of keys and values; docmill does not write with it.")


def generation_settings(folder: Path) -> GenerationConfig:
    """Return the GenerationConfig that transformers gives the model in a folder."""
    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:  # older models keep it in their config
        return GenerationConfig.from_pretrained(folder, config_file_name="config.json", _from_model_config=True)


def stated_settings(opening: Opening) -> dict[str, Any]:
    """Return all generation settings in the model's files, also settings that transformers does not know."""
    file = opening.folder / "generation_config.json"
    stated = json.loads(file.read_bytes()) if file.exists() else {}
    return own_settings(opening.config.to_dict(), stated, generation_settings(opening.folder).to_dict())
