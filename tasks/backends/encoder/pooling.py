"""The pooling head: one vector for each window, by the modules that a model's files name.

Usual modules are read and computed here. sentence-transformers, which takes seconds to import, opens other models.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from safetensors import safe_open

from docmill.tasks.backends import Assignment, accelerator
from docmill.tasks.backends.convert import safe_folder
from docmill.tasks.backends.encoder.heads import EncoderModel, own_states
from docmill.tasks.backends.encoder.kept_heads import KeptHead
from docmill.tasks.backends.loading import reported
from docmill.tasks.backends.tokens import Tokens
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models import families, sentence_modules
from docmill.tasks.models.sentence_modules import Linear, SentenceModules


def load(assignment: Assignment, dtype: torch.dtype) -> EncoderModel:
    """Load an embedding model as its files describe it. Raises WeightsMissing, ModelUnsuitable and CannotServe."""
    spec = assignment.spec
    families.require_dense(families.Description.of_folder(assignment.folder), spec.model, spec.kind)
    folder = safe_folder(assignment.folder, spec.revision, assignment.cache_dir)
    modules = sentence_modules.read(folder)
    prompt = sentence_modules.prompt(spec, modules.prompts, modules.default_prompt) if modules is not None else ""
    head = _head(modules) if modules is not None and (modules.include_prompt or not prompt) else None
    if modules is None or head is None:
        from docmill.tasks.backends.encoder import library_pooling

        return library_pooling.load(assignment, folder, dtype)
    if (pooling := spec.params.get("pooling")) is not None:
        sentence_modules.require_single(modules.poolings)
        head = replace(head, settings={**head.settings, "poolings": [sentence_modules.MODES[pooling]]})
    encoder, tokenizer = _transformer(assignment, modules, dtype)
    tokens = Tokens(tokenizer, prefix=prompt)
    config = encoder.config.to_dict()
    limit = tokens.checked_limit(families.window_limit(config, tokens.stated_limit), spec.params.get("window_tokens"))
    own = own_states(encoder, tokens, assignment.device)
    placed = KeptHead(head.settings, {name: one.to(assignment.device) for name, one in head.tensors.items()})
    # Vectors cut to fewer dimensions have no length of 1 any more.
    traits = Traits(normalizes=modules.dimensions is None and None in modules.steps)
    first = tokens.pads_right and head.pools_first
    return EncoderModel(tokens, limit, encoder, own, placed.outputs(), traits, "transformers", head, first)


def _transformer(assignment: Assignment, modules: SentenceModules, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return the encoder and the tokenizer, with the limits that sentence-transformers gives them."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    spec, folder, stated = assignment.spec, modules.folder, modules.max_length
    given: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with accelerator.quiet(), reported() as report:
        config = AutoConfig.from_pretrained(folder, **given)
        config.use_cache = False
        encoder = AutoModel.from_pretrained(folder, config=config, dtype=dtype, use_safetensors=True, **given)
        length = {} if stated is None else {"model_max_length": stated}
        tokenizer = AutoTokenizer.from_pretrained(folder, **length, **given)
    report.require(spec.model, spec.kind, unused=sentence_modules.POOLERS)
    positions = getattr(config, "max_position_embeddings", -1)
    if stated is None and positions != -1:
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return encoder.to(assignment.device).eval(), tokenizer


def _head(modules: SentenceModules) -> KeptHead | None:
    """Return the modules after the transformer as a head; None where their weights are not as their files say."""
    steps: list[dict[str, str]] = []
    tensors: dict[str, torch.Tensor] = {}
    for place, step in enumerate(modules.steps):
        if step is None:
            steps.append({"step": "normalize"})
            continue
        weights = _weights(step)
        if weights.keys() != ({"linear.weight", "linear.bias"} if step.bias else {"linear.weight"}):
            return None
        steps.append({"step": "linear", "name": str(place), "activation": step.activation})
        tensors |= {f"{place}.{name.removeprefix('linear.')}": one.float() for name, one in weights.items()}
    settings = {
        "type": "vectors", "poolings": [*modules.poolings], "steps": steps, "dimensions": modules.dimensions
    }  # fmt: skip
    return KeptHead(settings, tensors)


def _weights(step: Linear) -> dict[str, torch.Tensor]:
    with safe_open(str(step.folder / "model.safetensors"), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
