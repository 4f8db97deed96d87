"""Open specs without their weights: to show the windows and prompts of a result, and to check files before a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.encoder import heads
from docmill.tasks.backends.tokens import TokenCoder
from docmill.tasks.errors import CannotServe
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models import families, gliner
from docmill.tasks.models.families import Family
from docmill.tasks.outputs import Head
from docmill.tasks.windows.windows import Coder, Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from docmill.tasks.backends.decoder_only.instructed import Completion
    from docmill.tasks.backends.encoder_decoder.generation import Generation


@dataclass(frozen=True)
class CoderAndTraits:
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


def reading_of(assignment: Assignment, config: Mapping[str, Any]) -> CoderAndTraits:
    """Return the reading of a spec's model. Raises CannotServe for a model whose files do not tell it."""
    if assignment.head in heads.LOADERS:
        return _of_encoder(assignment)
    if assignment.head is Head.MATCHING:
        from docmill.tasks.backends.gliner_backend import reading_of as reading_of_words

        return CoderAndTraits(*reading_of_words(assignment), as_given)
    writer = _open_writer(assignment.spec, assignment.folder, config, assignment.cache_dir)
    coder = TokenCoder(writer.tokens.encode, writer.limit_tokens)
    return CoderAndTraits(coder, writer.traits, _by(writer.tokens.tokenizer))


def require_weights(spec: Spec, folder: Path, config: Mapping[str, Any], cache_dir: Path) -> None:
    """Raise WeightsMissing or ModelUnsuitable where the model of a folder cannot do the spec's kind of task."""
    if families.family(config) is Family.GLINER:  # its library tells nothing without the weights
        gliner.of_folder(folder, spec.model)
        return
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from docmill.tasks.backends.loading import Opening, WeightsNeeded, require_keys_and_values, without_weights

    if (head := _encoder_head(spec, config)) is not None:
        with suppress(WeightsNeeded), without_weights():
            heads.load(Assignment(spec, folder, "cpu", cache_dir, head), torch.float32)
        return
    decoder = families.family(config) is Family.DECODER
    opening = Opening.of(spec, folder, cache_dir)
    model = opening.require_weights(AutoModelForCausalLM if decoder else AutoModelForSeq2SeqLM)
    if decoder and model is not None:
        require_keys_and_values(model, spec.model)


def rehearse(spec: Spec, folder: Path, config: Mapping[str, Any], cache_dir: Path) -> None:
    """Raise the errors of opening the spec, except those that depend on a device or on the weights' values."""
    require_weights(spec, folder, config, cache_dir)
    if _encoder_head(spec, config) is None and families.family(config) is not Family.GLINER:
        _open_writer(spec, folder, config, cache_dir)


def _encoder_head(spec: Spec, config: Mapping[str, Any]) -> Head | None:
    """Return the head of an encoder with which the spec is done; None if it is done with another model."""
    head = kinds.kind(spec.kind).head(families.family(config))
    return head if head in heads.LOADERS else None


def _of_encoder(assignment: Assignment) -> CoderAndTraits:
    import torch

    from docmill.tasks.backends.loading import WeightsNeeded, without_weights

    try:
        with without_weights():
            model = heads.load(replace(assignment, device="cpu"), torch.float32)
    except WeightsNeeded as error:
        raise CannotServe(
            f"The files of {assignment.spec.model} do not tell how it reads without its weights."
        ) from error
    shown = as_given if model.tokens is None else _by(model.tokens.tokenizer)
    return CoderAndTraits(model, model.traits, shown)


def _open_writer(spec: Spec, folder: Path, config: Mapping[str, Any], cache_dir: Path) -> Completion | Generation:
    """Return the prompts and the decoding of a model that writes, or scores labels. Raises CannotServe."""
    from docmill.tasks.backends.loading import Opening, generation_settings

    opening = Opening.of(spec, folder, cache_dir)
    if families.family(config) is Family.DECODER:
        from docmill.tasks.backends.decoder_only.instructed import completion_of

        return completion_of(opening, kinds.kind(spec.kind).head(Family.DECODER))
    from docmill.tasks.backends.encoder_decoder.generation import Generation

    return Generation(opening, generation_settings(opening.folder))


def _by(tokenizer: PreTrainedTokenizerBase) -> Callable[[Encoded], str]:
    """Return the function that writes tokens out with the tokenizer's vocabulary.

    A Marian tokenizer has one for the texts that it reads and another for those that it writes.
    """
    own = {"use_source_tokenizer": True} if hasattr(tokenizer, "spm_source") else {}

    def shown(encoded: Encoded) -> str:
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False, **own}
        return str(tokenizer.decode(list(encoded.ids), **options))

    return shown
