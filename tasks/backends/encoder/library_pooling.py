"""The pooling head of models whose files name other modules than ``tasks.models.sentence_modules`` reads.

sentence-transformers reads the files, and its modules pool (cls, mean, last token and others), project and normalise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn

from docmill.tasks.backends import Assignment
from docmill.tasks.backends.encoder.heads import EncoderModel, StatesOf
from docmill.tasks.backends.encoder.kept_heads import KeptHead
from docmill.tasks.backends.encoder.library_models import opened
from docmill.tasks.backends.tokens import Tokens, padded
from docmill.tasks.errors import CannotServe
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models import families, sentence_modules
from docmill.tasks.models.sentence_modules import MODES, POOLERS, POOLINGS, require_single
from docmill.tasks.outputs import Output, Vector
from docmill.tasks.windows.windows import Encoded

_ACTIVATIONS: dict[type, str] = {nn.Identity: "none", nn.Tanh: "tanh", nn.ReLU: "relu"}
_NO_LIMIT = 1_000_000_000


def load(assignment: Assignment, folder: Path, dtype: torch.dtype) -> EncoderModel:
    """Load the embedding model of a folder with safe weights. Raises WeightsMissing and CannotServe."""
    spec = assignment.spec
    model = _loaded(assignment, folder, dtype)
    first, *others = model
    prompt = sentence_modules.prompt(spec, model.prompts, model.default_prompt_name)
    plain = type(first) is Transformer and hasattr(first.tokenizer, "pad")
    tokens = Tokens(first.tokenizer, prefix=prompt) if plain else None
    asked = spec.params.get("window_tokens")
    limit = asked or _NO_LIMIT
    if tokens is not None:
        config = first.auto_model.config.to_dict()
        limit = tokens.checked_limit(families.window_limit(config, tokens.stated_limit, model.max_seq_length), asked)
    head = PoolingHead(others, model.truncate_dim, tokens.prefix_length if tokens is not None and prompt else None)
    own = _own_states(model, tokens, assignment.device, prompt)
    fits = tokens is not None and _reads_states_only(first, others)
    return EncoderModel(
        tokens,
        limit,
        first.auto_model if fits else None,
        own,
        head.outputs,
        # Vectors cut to fewer dimensions have no length of 1 any more.
        Traits(normalizes=model.truncate_dim is None and any(isinstance(module, Normalize) for module in model)),
        "sentence-transformers",
        _kept(others, model.truncate_dim, prompted=bool(prompt)) if fits else None,
    )


class PoolingHead:
    """The modules of a model after its first. ``prompt_tokens``: the length of a prompt that poolings may skip.

    They compute in float32: a half precision's sums over a text's tokens and its norms are too coarse for a vector
    of length 1.
    """

    def __init__(self, modules: Sequence[nn.Module], truncate_dim: int | None, prompt_tokens: int | None) -> None:
        self._modules = modules
        self._truncate_dim = truncate_dim
        self._prompt_tokens = prompt_tokens

    def outputs(self, _: Sequence[Encoded], states: dict[str, torch.Tensor]) -> Sequence[Output]:
        features: dict[str, Any] = {
            name: value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
            for name, value in states.items()
        }
        if self._prompt_tokens is not None:
            features["prompt_length"] = self._prompt_tokens
        for module in self._modules:
            features = module(features)
        vectors = features["sentence_embedding"]
        if self._truncate_dim is not None:
            vectors = vectors[..., : self._truncate_dim]
        return [Vector(np.ascontiguousarray(row)) for row in vectors.float().cpu().numpy()]


def _kept(modules: Sequence[nn.Module], dimensions: int | None, *, prompted: bool) -> KeptHead | None:
    """Return the modules as a kept head; None if one of them does more than such a head can."""
    first, *others = modules or [nn.Identity()]
    if not isinstance(first, Pooling) or (prompted and not first.include_prompt):
        return None
    modes = (first.pooling_mode,) if isinstance(first.pooling_mode, str) else first.pooling_mode
    steps: list[dict[str, str]] = []
    tensors: dict[str, torch.Tensor] = {}
    for place, module in enumerate(others):
        activation = _ACTIVATIONS.get(type(getattr(module, "activation_function", None)))
        if isinstance(module, Normalize):
            steps.append({"step": "normalize"})
        elif isinstance(module, Dense) and activation is not None and not module.use_residual:
            steps.append({"step": "linear", "name": str(place), "activation": activation})
            tensors |= {f"{place}.{name}": one.detach() for name, one in module.linear.named_parameters()}
        else:
            return None
    settings = {"type": "vectors", "poolings": [*modes], "steps": steps, "dimensions": dimensions}
    return KeptHead(settings, tensors) if POOLINGS.issuperset(modes) else None


def _loaded(assignment: Assignment, folder: Path, dtype: torch.dtype) -> SentenceTransformer:
    spec = assignment.spec
    model, report = opened(SentenceTransformer, folder, assignment.device, dtype)
    report.require(spec.model, spec.kind, unused=() if _uses_pooler(model) else POOLERS)
    if (pooling := spec.params.get("pooling")) is not None:
        _set_pooling(model, MODES[pooling])
    return model


def _own_states(model: SentenceTransformer, tokens: Tokens | None, device: str, prompt: str) -> StatesOf:
    """Return a function from a batch to what the model's first module gives, by its own code."""
    first = model[0]

    def states_of(batch: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        features: dict[str, Any]
        if tokens is None:
            features = dict(model.preprocess([str(one.features) for one in batch], prompt=prompt or None))
        else:
            features = {**padded(batch, tokens), "modality": "text"}
        return dict(
            first(
                {
                    name: value.to(device) if isinstance(value, torch.Tensor) else value
                    for name, value in features.items()
                }
            )
        )

    return states_of


def _reads_states_only(first: Transformer, others: Sequence[nn.Module]) -> bool:
    """Return True if the modules after the first need nothing of it but its last hidden states."""
    output = first.modality_config["text"]["method_output_name"]
    last = output in ("last_hidden_state", ("last_hidden_state",), ["last_hidden_state"])
    more = first.auto_model.config.output_hidden_states
    return last and not more and all(type(module) in (Pooling, Normalize, Dense) for module in others)


def _uses_pooler(model: SentenceTransformer) -> bool:
    """Return True if a module reads its transformer's own pooler, and not the last hidden states."""
    readers = [module for module in model.modules() if isinstance(module, Transformer)]
    return any("pooler" in str(reader.modality_config) for reader in readers)


def _set_pooling(model: SentenceTransformer, mode: str) -> None:
    for number, module in enumerate(model):
        if isinstance(module, Pooling):
            require_single(module.pooling_mode if isinstance(module.pooling_mode, tuple) else ())
            model[number] = Pooling(module.embedding_dimension, mode, include_prompt=module.include_prompt)
            return
    raise CannotServe("The model has no pooling module that --pooling could replace.")
