"""Advice at the start of a run without --model: the limits of the default models."""

from __future__ import annotations

from pathlib import Path

from docmill.storage.readers.sources import path_of
from docmill.tasks import kinds
from docmill.tasks.models import weightless
from docmill.tasks.specs.pinning import SHIPPED_FOLDER

_KNOWS = "It was trained on descriptions of software packages and knows little else"

_BY_FORM = (
    f"{weightless.PATTERNS}, which finds numbers and addresses by their form, and no names. For names, too: --model "
    "with a token classifier, such as --model dslim/bert-base-NER"
)


def said(task: str, source: str, options: kinds.KindOptions) -> str:
    """Return a remark on a task's default model, with two models of the hub that fit other texts."""
    model = kinds.kind(task).model_for(options)
    if model == weightless.PATTERNS:
        return f"Model: {_BY_FORM}"
    line = f"Model: {model}, the quick start's; --model takes any other."
    fitting = kinds.kind(task).other_models(options)
    if not fitting or _is_example(source):
        return line
    return f"{line} {_KNOWS}. For other texts: --model {fitting[0]} or --model {fitting[1]}"


def _is_example(source: str) -> bool:
    """Return whether the source is one of the examples, which the quick start's models are for."""
    path = path_of(source)
    return path is not None and path.resolve().is_relative_to(Path(SHIPPED_FOLDER).parent)
