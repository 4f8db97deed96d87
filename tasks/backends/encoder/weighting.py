"""The head of a sparse encoder: the weights that SPLADE (Formal et al. 2021) gives the tokens of the vocabulary.

sentence-transformers reads the files. The head of masked language models gives a logit for each token of the
vocabulary at each place of a window. The head reads one window at a time: the logits of a batch would take gigabytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling
from torch import Tensor, nn

from docmill.tasks.backends import Assignment
from docmill.tasks.backends.convert import safe_folder
from docmill.tasks.backends.encoder.heads import EncoderModel
from docmill.tasks.backends.encoder.kept_heads import KeptHead
from docmill.tasks.backends.encoder.kept_weights import parts_of, weights
from docmill.tasks.backends.encoder.library_models import opened
from docmill.tasks.backends.encoder.own_heads import Parts, taken_apart
from docmill.tasks.backends.tokens import Tokens
from docmill.tasks.errors import ModelUnsuitable
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models import families, sentence_modules
from docmill.tasks.outputs import Output, Vocabulary
from docmill.tasks.windows.windows import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load(assignment: Assignment, dtype: torch.dtype) -> EncoderModel:
    """Load a sparse encoder. Raises WeightsMissing, ModelUnsuitable and CannotServe."""
    spec, device = assignment.spec, assignment.device
    model = _loaded(assignment, dtype)
    first, pooling = model[0], model[1]
    prompt = sentence_modules.prompt(spec, model.prompts, model.default_prompt_name)
    tokens = Tokens(first.tokenizer, prefix=prompt)
    config = first.auto_model.config.to_dict()
    limit = tokens.checked_limit(
        families.window_limit(config, tokens.stated_limit, model.max_seq_length), spec.params.get("window_tokens")
    )
    _untie(first.auto_model)
    parts = taken_apart(first.auto_model, tokens, device, dtype)
    settings = {
        "vocabulary": first.tokenizer.convert_ids_to_tokens(range(first.auto_model.config.vocab_size)),
        "sums": pooling.pooling_strategy == "sum",
        "most": model.max_active_dims or 0,
    }
    vocabulary, twice = Vocabulary(*settings.values()), pooling.activation_function == "log1p_relu"

    def outputs(batch: Sequence[Encoded], states: dict[str, Tensor]) -> Sequence[Output]:
        return [weights(vocabulary, _logits(parts, states, row), twice=twice) for row in range(len(batch))]

    kept = None
    if parts.encoder is not None and (found := parts_of(first.auto_model)) is not None:
        of_head, tensors, names = found
        settings = {"type": "weights", **settings, "twice": twice, **of_head}
        kept = KeptHead(settings, tensors, {"decoder.weight": names})
    return EncoderModel(
        tokens, limit, parts.encoder, parts.own_states, outputs, Traits(), "sentence-transformers", kept
    )


def _logits(parts: Parts, states: dict[str, Tensor], row: int) -> Tensor:
    """Return the logits (tokens, vocabulary) of one window of a batch, without padding."""
    real = states["attention_mask"][row].bool()
    own = {name: one[row : row + 1, real] for name, one in states.items() if name != "attention_mask"}
    return parts.logits_of({**own, "attention_mask": states["attention_mask"][row : row + 1, real]})[0]


def _loaded(assignment: Assignment, dtype: torch.dtype) -> SparseEncoder:
    spec = assignment.spec
    families.require_sparse(families.Description.of_folder(assignment.folder), spec.model, spec.kind)
    folder = safe_folder(assignment.folder, spec.revision, assignment.cache_dir)
    model, report = opened(SparseEncoder, folder, assignment.device, dtype)
    modules = [type(module) for module in model]
    if modules not in ([Transformer, SpladePooling], [MLMTransformer, SpladePooling]):
        names = ", ".join(module.__name__ for module in modules)
        raise ModelUnsuitable(
            f"{spec.kind} needs a masked language model with SpladePooling; {spec.model} is made of {names}."
        )
    report.require(spec.model, spec.kind)
    return model


def _untie(model: PreTrainedModel) -> None:
    """Give the head a copy of the weights that it shares with the encoder, which may change their precision."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
