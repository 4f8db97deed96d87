"""Read texts as a model under a spec does, without its weights: to show the windows and prompts of a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from docmill.tasks import kinds
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.encoder import heads
from docmill.tasks.errors import CannotServe
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models import families
from docmill.tasks.models.families import Family
from docmill.tasks.outputs import Head
from docmill.tasks.windows.windows import Coder, Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Reading:
    """A coder of a model without weights, and the traits that its recipe needs.

    ``shown`` returns the string that a model reads as these tokens, special tokens and prompt included.
    """

    coder: Coder
    traits: Traits
    shown: Callable[[Encoded], str]


def as_given(encoded: Encoded) -> str:
    """Return the text of a window that the model tokenizes by itself."""
    assert isinstance(encoded.features, str)
    return encoded.features


def reading_of(assignment: Assignment, config: Mapping[str, Any]) -> Reading:
    """Return the reading of a spec's model. Raises CannotServe for a model whose files do not tell it."""
    if assignment.head in heads.LOADERS:
        return _of_encoder(assignment)
    if assignment.head is Head.MATCHING:
        from docmill.tasks.backends.label_matching.gliner_backend import reading_of as reading_of_words

        coder_of_words, traits = reading_of_words(assignment)
        return Reading(coder_of_words, traits, as_given)
    from docmill.tasks.backends.generation_files import Opening, generation_settings

    opening = Opening.of(assignment.spec, assignment.folder, assignment.cache_dir)
    if families.family(config) is Family.DECODER:
        from docmill.tasks.backends.decoder_only.instructed import Completion
        from docmill.tasks.backends.decoder_only.likelihood import label_completion

        scores = kinds.kind(assignment.spec.kind).head(Family.DECODER) is Head.LIKELIHOOD
        completion = (label_completion if scores else Completion)(opening)
        coder = _Coder(completion.limit_tokens, completion.tokens.encode)
        return Reading(coder, completion.traits, _by(opening.tokenizer))
    from docmill.tasks.backends.encoder_decoder.generation import Generation

    generation = Generation(opening, generation_settings(opening.folder))
    coder = _Coder(generation.limit_tokens, generation.tokens.encode)
    return Reading(coder, generation.traits, _by(opening.tokenizer))


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class _Coder:
    limit_tokens: int
    encode: Callable[[Sequence[str]], list[Encoded]]


def _of_encoder(assignment: Assignment) -> Reading:
    import torch

    from docmill.tasks.backends.loading import NotTold, hollow

    try:
        with hollow():
            model = heads.load(replace(assignment, device="cpu"), torch.float32)
    except NotTold as error:
        raise CannotServe(
            f"The files of {assignment.spec.model} do not tell how it reads without its weights."
        ) from error
    shown = as_given if model.tokens is None else _by(model.tokens.tokenizer)
    return Reading(model, model.traits, shown)


def _by(tokenizer: PreTrainedTokenizerBase) -> Callable[[Encoded], str]:
    """Return the function that writes tokens out with the tokenizer's vocabulary.

    A Marian tokenizer has one for the texts that it reads and another for those that it writes.
    """
    own = {"use_source_tokenizer": True} if hasattr(tokenizer, "spm_source") else {}

    def shown(encoded: Encoded) -> str:
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False, **own}
        return str(tokenizer.decode(list(encoded.ids), **options))

    return shown
