"""Prompt templates: the text before and after a document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.steps import templates
from storage.steps.templates import BadTemplate
from tasks.errors import BadOption


@dataclass(frozen=True)
class Template:
    """The text before a document and the text after it."""

    before: str
    after: str

    def fill(self, text: str) -> str:
        return self.before + text + self.after


def check(template: str) -> templates.Template:
    """Return a parsed template. Raises BadOption if it is malformed."""
    try:
        return templates.parse(template)
    except BadTemplate as error:
        raise BadOption(f"--prompt: {error}") from error


def is_rendered(params: Mapping[str, Any]) -> bool:
    """Return True if a spec's contents are rendered prompts, which are neither wrapped in a template nor cut."""
    return isinstance(templates.over_metadata(params), templates.Template | templates.Messages)


def around(template: str) -> Template:
    """Return the text around the document in a template without metadata. Raises BadOption."""
    found = check(template)
    assert not found.fields
    return Template(*found.pieces)
