"""The pooling head: one vector for each window, by the modules that a model's files name.

This module reads and computes the usual modules. sentence-transformers opens other models; importing it takes
seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from docmill.tasks.backends import Assignment, accelerator
from docmill.tasks.backends.convert import safe_folder
from docmill.tasks.backends.encoder.heads import EncoderModel
from docmill.tasks.backends.encoder.own_code import own_states
from docmill.tasks.backends.loading import missing_weights, require_loaded
from docmill.tasks.backends.tokens import Tokens
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models import families, sentence_modules
from docmill.tasks.models.sentence_modules import DenseModule, SentenceModules

with accelerator.quiet():  # without SciPy, too
    from transformers import AutoConfig, AutoModel, AutoTokenizer

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"none": lambda vectors: vectors, "tanh": torch.tanh, "relu": functional.relu}
)


def load(assignment: Assignment, dtype: torch.dtype) -> EncoderModel:
    """Load an embedding model as its files describe it. Raises ModelCorrupt, ModelUnsuitable and CannotServe."""
    spec = assignment.spec
    families.require_dense(families.Description.of_folder(assignment.folder), spec.model, spec.kind)
    folder = safe_folder(assignment.folder, spec.revision, assignment.cache_dir)
    modules = sentence_modules.read(folder)
    prompt = sentence_modules.prompt(spec, modules.prompts) if modules is not None else ""
    steps = _read_steps(modules, assignment.device) if modules is not None else None
    if modules is None or steps is None or (prompt and not modules.include_prompt):
        from docmill.tasks.backends.encoder import library_models

        return library_models.load_vectors(assignment, folder, dtype)
    poolings: Sequence[str] = modules.poolings
    if (pooling := spec.params.get("pooling")) is not None:
        sentence_modules.require_single(poolings)
        poolings = [sentence_modules.MODES[pooling]]
    encoder, tokenizer = _transformer(assignment, modules, dtype)
    tokens = Tokens(tokenizer, prefix=prompt)
    limit = tokens.window_limit(spec, encoder.config)
    dimensions = modules.dimensions

    def vectors_of(states: Mapping[str, Tensor]) -> Tensor:
        vectors = pool(states["token_embeddings"], states["attention_mask"], poolings)
        for step in steps:
            vectors = step(vectors)
        return vectors if dimensions is None else vectors[..., :dimensions]

    return EncoderModel(
        tokens,
        limit,
        encoder,
        own_states(encoder, tokens),
        vectors_of,
        {"type": "vectors"},
        # Vectors that are cut to fewer dimensions do not have length 1.
        Traits(normalizes=dimensions is None and modules.steps[-1:] == [None]),
        "transformers",
        reads_first=tokens.pads_right and list(poolings) == ["cls"],
    )


def pool(states: Tensor, attention_mask: Tensor, poolings: Sequence[str]) -> Tensor:
    """Return poolings of (texts, tokens, dim) side by side, as sentence-transformers computes them."""
    pooled = []
    for pooling in poolings:
        if pooling == "cls":
            first = attention_mask.to(torch.int).argmax(dim=1)
            pooled.append(torch.gather(states, 1, _make_index(first, states)).squeeze(1))
        elif pooling == "max":
            hidden = attention_mask.unsqueeze(-1).expand_as(states) == 0
            pooled.append(states.masked_fill(hidden, float("-inf")).max(dim=1).values)
        elif pooling == "mean":
            mask = attention_mask.unsqueeze(-1).to(states.dtype)
            pooled.append((states * mask).sum(dim=1) / torch.clamp(mask.sum(dim=1), min=1e-9))
        else:
            assert pooling == "lasttoken", pooling
            length = states.shape[1]
            values, behind = attention_mask.flip(1).max(1)
            last = length - torch.where(values == 0, length - 1, behind) - 1
            pooled.append(torch.gather(states, 1, _make_index(last, states)).squeeze(1))
    return torch.cat(pooled, dim=-1)


def _make_index(places: Tensor, states: Tensor) -> Tensor:
    """Return an index of all dimensions at one place for each text."""
    return places.unsqueeze(-1).unsqueeze(1).expand(-1, 1, states.shape[-1])


def _read_steps(modules: SentenceModules, device: str) -> list[Callable[[Tensor], Tensor]] | None:
    """Return the modules after the pooling; None if their weights do not match their files."""
    steps: list[Callable[[Tensor], Tensor]] = []
    for step in modules.steps:
        if step is None:
            steps.append(lambda vectors: functional.normalize(vectors, p=2, dim=-1))
            continue
        weights = load_file(step.folder / "model.safetensors", device=device)
        if weights.keys() != ({"linear.weight", "linear.bias"} if step.bias else {"linear.weight"}):
            return None
        steps.append(_make_product(step, weights))
    return steps


def _make_product(step: DenseModule, weights: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    activation, weight = _ACTIVATIONS[step.activation], weights["linear.weight"].float()
    bias = weights["linear.bias"].float() if step.bias else None
    return lambda vectors: activation(functional.linear(vectors, weight, bias))


def _transformer(assignment: Assignment, modules: SentenceModules, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return the encoder and the tokenizer, with the limits that sentence-transformers gives them."""
    spec, folder, stated = assignment.spec, modules.folder, modules.max_length
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with accelerator.quiet(), missing_weights() as missing:
        config = AutoConfig.from_pretrained(folder, **options)
        config.use_cache = False
        encoder = AutoModel.from_pretrained(folder, config=config, dtype=dtype, use_safetensors=True, **options)
        length = {} if stated is None else {"model_max_length": stated}
        tokenizer = AutoTokenizer.from_pretrained(folder, **length, **options)
    require_loaded(missing, spec, unused=sentence_modules.POOLERS)
    positions = getattr(config, "max_position_embeddings", -1)
    if stated is None and positions != -1:
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return encoder.to(assignment.device).eval(), tokenizer
