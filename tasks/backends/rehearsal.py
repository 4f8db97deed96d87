"""Open specs without their weights, to check a model's files before a corpus is read.

Raises the errors of opening. Nothing here depends on a device.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.encoder import heads
from docmill.tasks.backends.generation_files import Opening, generation_settings, require_keys_and_values
from docmill.tasks.backends.loading import NotTold, hollow
from docmill.tasks.models import families, gliner
from docmill.tasks.models.families import Family
from docmill.tasks.outputs import Head


def require_weights(spec: Spec, folder: Path, config: Mapping[str, Any], cache_dir: Path) -> None:
    """Raise WeightsMissing or ModelUnsuitable where the model of a folder cannot do the spec's kind of task."""
    if families.family(config) is Family.GLINER:  # its library tells nothing without the weights
        gliner.of_folder(folder, spec.model)
        return
    if (head := _encoder_head(spec, config)) is not None:
        _read_only(Assignment(spec, folder, "cpu", cache_dir, head))
        return
    opening = Opening.of(spec, folder, cache_dir)
    decoder = families.family(config) is Family.DECODER
    model = opening.require_weights(AutoModelForCausalLM if decoder else AutoModelForSeq2SeqLM)
    if decoder and model is not None:
        require_keys_and_values(model, spec.model)


def rehearse(spec: Spec, folder: Path, config: Mapping[str, Any], cache_dir: Path) -> None:
    """Raise the errors of opening the spec, except those that depend on a device or on the weights' values."""
    require_weights(spec, folder, config, cache_dir)
    if _encoder_head(spec, config) is not None or families.family(config) is Family.GLINER:
        return
    opening = Opening.of(spec, folder, cache_dir)
    if families.family(config) is Family.DECODER:
        from docmill.tasks.backends.decoder_only.instructed import Completion
        from docmill.tasks.backends.decoder_only.likelihood import label_completion

        scores = kinds.kind(spec.kind).head(Family.DECODER) is Head.LIKELIHOOD
        (label_completion if scores else Completion)(opening)
        return
    from docmill.tasks.backends.encoder_decoder.generation import Generation

    Generation(opening, generation_settings(opening.folder))


def _encoder_head(spec: Spec, config: Mapping[str, Any]) -> Head | None:
    """Return the head of an encoder with which the spec is done; None if it is done with another model."""
    head = kinds.kind(spec.kind).head(families.family(config))
    return head if head in heads.LOADERS else None


def _read_only(assignment: Assignment) -> None:
    with suppress(NotTold), hollow():
        heads.load(assignment, torch.float32)
