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
    """What stands before the document, and what after it."""

    before: str
    after: str

    def fill(self, text: str) -> str:
        return self.before + text + self.after


def check(template: str) -> templates.Template:
    """What a template reads of a document. Raises BadOption where it is none."""
    try:
        return templates.parse(template)
    except BadTemplate as error:
        raise BadOption(f"--prompt: {error}") from error


def is_rendered(params: Mapping[str, Any]) -> bool:
    """Whether what a spec is asked of are rendered prompts: nothing is to stand around them, nor are they cut."""
    return templates.over_metadata(params) is not None


def around(template: str) -> Template:
    """What stands around the document in a template that reads no metadata. Raises BadOption."""
    found = check(template)
    assert not found.fields
    return Template(*found.pieces)
