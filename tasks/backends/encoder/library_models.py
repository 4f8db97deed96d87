"""Models that sentence-transformers opens: sparse encoders, and embedding models with unusual modules.

docmill opens local files with safe weights, and runs no code from them. The modules of an embedding model pool (cls,
mean, last token and others), project and normalize. The head of a sparse encoder computes the weights of SPLADE
(Formal et al. 2021) for the tokens of the vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling
from torch import Tensor, nn

from docmill.tasks.backends import Assignment, accelerator
from docmill.tasks.backends.convert import safe_folder
from docmill.tasks.backends.encoder.heads import EncoderModel, StatesOf
from docmill.tasks.backends.encoder.own_code import take_apart
from docmill.tasks.backends.loading import missing_weights, require_loaded
from docmill.tasks.backends.tokens import Tokens, padded
from docmill.tasks.batching import UNBOUNDED
from docmill.tasks.errors import CannotServe, ModelUnsuitable
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models import families, sentence_modules
from docmill.tasks.models.sentence_modules import MODES, POOLERS, Prompts, require_single
from docmill.tasks.windows.windows import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Model = TypeVar("Model", SentenceTransformer, SparseEncoder)


def _open(library: type[Model], folder: Path, device: str, dtype: torch.dtype) -> tuple[Model, list[str]]:
    """Return the model in a folder, and the names of its missing weights."""
    with accelerator.quiet(), missing_weights() as missing:
        model = library(
            str(folder),
            device=device,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"dtype": dtype, "use_safetensors": True},
        )
    model.eval().requires_grad_(requires_grad=False)
    return model, missing


def load_vectors(assignment: Assignment, folder: Path, dtype: torch.dtype) -> EncoderModel:
    """Load the embedding model in a folder with safe weights. Raises ModelCorrupt and CannotServe."""
    spec = assignment.spec
    model, missing = _open(SentenceTransformer, folder, assignment.device, dtype)
    require_loaded(missing, spec, unused=() if _uses_pooler(model) else POOLERS)
    if (pooling := spec.params.get("pooling")) is not None:
        _set_pooling(model, MODES[pooling])
    first, *others = model
    prompt = sentence_modules.prompt(spec, Prompts(model.prompts, model.default_prompt_name))
    plain = type(first) is Transformer and hasattr(first.tokenizer, "pad")
    tokens = Tokens(first.tokenizer, prefix=prompt) if plain else None
    counters: list[Tokens] = []
    if tokens is None:
        limits: list[int] = []
        for module in first.modules():
            if isinstance(module, Transformer) and hasattr(module.tokenizer, "pad"):
                # A copy, since the library changes the padding of its tokenizers while other threads count.
                counters.append(Tokens(copy.deepcopy(module.tokenizer), prefix=prompt))
                limits.append(counters[-1].window_limit(spec, module.auto_model.config))
        limit = min(limits, default=spec.params.get("window_tokens") or UNBOUNDED)
    else:
        limit = tokens.window_limit(spec, first.auto_model.config, model.max_seq_length)
    prompt_tokens = tokens.prefix_length if tokens is not None and prompt else None

    def vectors_of(states: Mapping[str, Any]) -> Tensor:
        """Return the vectors of the later modules, in float32: half precisions are too coarse for their sums."""
        features: dict[str, Any] = {
            name: value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
            for name, value in states.items()
        }
        if prompt_tokens is not None:  # a pooling may skip the prompt
            features["prompt_length"] = prompt_tokens
        for module in others:
            features = module(features)
        vectors: Tensor = features["sentence_embedding"]
        return vectors if model.truncate_dim is None else vectors[..., : model.truncate_dim]

    fits = tokens is not None and _reads_states_only(first, others)
    return EncoderModel(
        tokens,
        limit,
        first.auto_model if fits else None,
        _use_own_code(model, tokens, assignment.device, prompt),
        vectors_of,
        {"type": "vectors"},
        # Vectors that are cut to fewer dimensions do not have length 1.
        Traits(normalizes=model.truncate_dim is None and isinstance(model[-1], Normalize)),
        "sentence-transformers",
        counters=counters,
    )


def _use_own_code(model: SentenceTransformer, tokens: Tokens | None, device: str, prompt: str) -> StatesOf:
    """Return the function that computes a batch by the code of the model's first module."""
    first = model[0]

    def states_of(batch: Sequence[Encoded]) -> dict[str, Tensor]:
        features: dict[str, Any]
        if tokens is None:
            features = dict(model.preprocess([str(window.features) for window in batch], prompt=prompt or None))
        else:
            features = {**padded(batch, tokens), "modality": "text"}
        return dict(
            first(
                {name: value.to(device) if isinstance(value, Tensor) else value for name, value in features.items()}
            )
        )

    return states_of


def _reads_states_only(first: Transformer, others: Sequence[nn.Module]) -> bool:
    """Return True if the later modules read only the last hidden states of the first module."""
    output = first.modality_config["text"]["method_output_name"]
    last = output in ("last_hidden_state", ("last_hidden_state",), ["last_hidden_state"])
    more = first.auto_model.config.output_hidden_states
    return last and not more and all(type(module) in (Pooling, Normalize, Dense) for module in others)


def _uses_pooler(model: SentenceTransformer) -> bool:
    """Return True if a module reads the pooler of its transformer, not the last hidden states."""
    readers = [module for module in model.modules() if isinstance(module, Transformer)]
    return any("pooler" in str(reader.modality_config) for reader in readers)


def _set_pooling(model: SentenceTransformer, mode: str) -> None:
    for number, module in enumerate(model):
        if isinstance(module, Pooling):
            require_single(module.pooling_mode if isinstance(module.pooling_mode, tuple) else ())
            model[number] = Pooling(module.embedding_dimension, mode, include_prompt=module.include_prompt)
            return
    raise CannotServe("The model has no pooling module that --pooling could replace.")


def load_sparse(assignment: Assignment, dtype: torch.dtype) -> EncoderModel:
    """Load a sparse encoder. Raises ModelCorrupt, ModelUnsuitable and CannotServe."""
    spec = assignment.spec
    families.require_sparse(families.Description.of_folder(assignment.folder), spec.model, spec.kind)
    folder = safe_folder(assignment.folder, spec.revision, assignment.cache_dir)
    model, missing = _open(SparseEncoder, folder, assignment.device, dtype)
    modules = [type(module) for module in model]
    if modules not in ([Transformer, SpladePooling], [MLMTransformer, SpladePooling]):
        names = ", ".join(module.__name__ for module in modules)
        raise ModelUnsuitable(
            f"{spec.kind} needs a masked language model with SpladePooling; {spec.model} has the modules {names}."
        )
    require_loaded(missing, spec)
    first, pooling = model[0], model[1]
    prompt = sentence_modules.prompt(spec, Prompts(model.prompts, model.default_prompt_name))
    tokens = Tokens(first.tokenizer, prefix=prompt)
    limit = tokens.window_limit(spec, first.auto_model.config, model.max_seq_length)
    _untie(first.auto_model)
    sums, twice = pooling.pooling_strategy == "sum", pooling.activation_function == "log1p_relu"
    form = {
        "type": "weights",
        "vocabulary": first.tokenizer.convert_ids_to_tokens(range(first.auto_model.config.vocab_size)),
        "sums": sums,
        "most": model.max_active_dims or 0,
    }
    taken = take_apart(first.auto_model, tokens, limit, form)

    def weights_of(states: Mapping[str, Tensor]) -> Tensor:
        """Return weights (texts, vocabulary) of texts without padding, as SpladePooling computes them."""
        scores = taken.head(states).float().relu()
        if not sums:  # log1p keeps the order, so the maximum may come first
            scores = scores.amax(dim=1)
        for _ in range(2 if twice else 1):
            scores = scores.log1p()
        return scores.sum(dim=1) if sums else scores

    return replace(taken, head=weights_of, library="sentence-transformers")


def _untie(model: PreTrainedModel) -> None:
    """Give the head its own copy of the weights that it shares with the encoder. Their precisions may differ."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
