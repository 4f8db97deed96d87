"""Open specs without weights: to show the windows and prompts of a result, and to check files before a run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from docmill.tasks.backends import Assignment
from docmill.tasks.backends.encoder import heads
from docmill.tasks.backends.tokens import TokenCoder
from docmill.tasks.errors import CannotServe
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models import gliner
from docmill.tasks.outputs import Head
from docmill.tasks.windows.windows import Coder, Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from docmill.tasks.backends.decoder_only.instructed import Completion
    from docmill.tasks.backends.encoder_decoder.generation import Generation


@dataclass(frozen=True)
class CoderAndTraits:
    """The coder of a model without weights, and the traits that its recipe needs.

    ``shown`` decodes a window, with special tokens and prompt.
    """

    coder: Coder
    traits: Traits
    shown: Callable[[Encoded], str]


def as_given(encoded: Encoded) -> str:
    """Return the text of a window, if the model tokenizes it itself."""
    assert isinstance(encoded.features, str)
    return encoded.features


def reading_of(assignment: Assignment) -> CoderAndTraits:
    """Return the coder and the traits of a spec's model. Raises CannotServe if they need the weights."""
    if assignment.head in heads.LOADERS:
        return _read_encoder(assignment)
    if assignment.head is Head.MATCHING:
        from docmill.tasks.backends.gliner_backend import reading_of as reading_of_words

        return CoderAndTraits(*reading_of_words(assignment), as_given)
    writer = _open_writer(assignment)
    coder = TokenCoder(writer.tokens.encode, writer.limit_tokens)
    return CoderAndTraits(coder, writer.traits, _decode_by(writer.tokens.tokenizer))


def require_weights(assignment: Assignment) -> None:
    """Raise ModelCorrupt or ModelUnsuitable if the model cannot do the spec's kind of task."""
    if assignment.head is Head.MATCHING:  # its library checks nothing without the weights
        gliner.of_folder(assignment.folder, assignment.spec.model)
        return
    import torch

    from docmill.tasks.backends.loading import Opening, WeightsNeeded, require_keys_and_values, without_weights

    if assignment.head in heads.LOADERS:
        with suppress(WeightsNeeded), without_weights():
            heads.load(assignment, torch.float32)
        return
    model = Opening.of(assignment).require_weights()
    if assignment.head is not Head.SEQ2SEQ_TEXT and model is not None:
        require_keys_and_values(model, assignment.spec.model)


def rehearse(assignment: Assignment) -> None:
    """Raise the errors of opening the spec, except those that depend on a device or on the weights' values."""
    require_weights(assignment)
    if assignment.head not in {*heads.LOADERS, Head.MATCHING}:
        _open_writer(assignment)


def _read_encoder(assignment: Assignment) -> CoderAndTraits:
    import torch

    from docmill.tasks.backends.loading import WeightsNeeded, without_weights

    try:
        with without_weights():
            model = heads.load(assignment, torch.float32)
    except WeightsNeeded as error:
        raise CannotServe(f"{assignment.spec.model} cannot show how it reads a text without its weights.") from error
    shown = as_given if model.tokens is None else _decode_by(model.tokens.tokenizer)
    return CoderAndTraits(model, model.traits, shown)


def _open_writer(assignment: Assignment) -> Completion | Generation:
    """Return the prompts and the decoding of a model that writes or scores labels. Raises CannotServe."""
    from docmill.tasks.backends.loading import Opening, generation_settings

    opening = Opening.of(assignment)
    if assignment.head is Head.SEQ2SEQ_TEXT:
        from docmill.tasks.backends.encoder_decoder.generation import Generation

        return Generation(opening, generation_settings(opening.folder))
    from docmill.tasks.backends.decoder_only.instructed import completion_of

    return completion_of(opening)


def _decode_by(tokenizer: PreTrainedTokenizerBase) -> Callable[[Encoded], str]:
    """Return the function that decodes windows.

    A Marian tokenizer has one vocabulary for its inputs and another for its outputs.
    """
    own = {"use_source_tokenizer": True} if hasattr(tokenizer, "spm_source") else {}

    def shown(encoded: Encoded) -> str:
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False, **own}
        return str(tokenizer.decode(list(encoded.ids), **options))

    return shown
