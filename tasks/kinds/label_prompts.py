"""The words with which a decoder-only model is asked for one of a user's labels."""

from __future__ import annotations

from collections.abc import Mapping

from storage.core.specs import Spec
from tasks.kinds.base import pattern
from tasks.prompts import Template


def chat(spec: Spec) -> Template:
    """Return the request for a label of a text, for a model that follows instructions."""
    told = "Choose the label that fits the text below best. Answer with the label only.\n\nLabels:"
    return Template(f"{told}\n{_listed(_labels(spec))}\n\nText:\n", "")


def completed(spec: Spec, _shown: bool) -> Template:
    """Return the request as a pattern that a base model completes with a label."""
    before = pattern("Text", "Label", ())
    return Template(f"Labels:\n{_listed(_labels(spec))}\n\n{before.before}", before.after)


def _labels(spec: Spec) -> Mapping[str, str]:
    labels: Mapping[str, str] = spec.params["labels"]
    return labels


def _listed(labels: Mapping[str, str]) -> str:
    return "\n".join(f"- {label}" if words == label else f"- {label}: {words}" for label, words in labels.items())
