"""Prompt templates, and demonstrations for base models.

A base model often writes nothing after a pattern that it sees once, so it sees a few demonstrations first (Brown et
al. 2020, section 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from docmill.storage import templates
from docmill.storage.errors import StorageError
from docmill.tasks import languages
from docmill.tasks.errors import BadOption


@dataclass(frozen=True)
class PromptFrame:
    """The text before a document and the text after it."""

    before: str
    after: str

    def fill(self, text: str) -> str:
        return self.before + text + self.after


def check(template: str) -> templates.Template:
    """Return a parsed template. Raises BadOption if it is malformed."""
    try:
        return templates.parse(template)
    except StorageError as error:
        raise BadOption(f"--prompt: {error}") from error


def is_rendered(params: Mapping[str, Any]) -> bool:
    """Return True if a spec's contents are rendered prompts. They get no template, and are not cut."""
    return isinstance(templates.over_metadata(params), templates.Template | templates.Messages)


def around(template: str) -> PromptFrame:
    """Return the text around the document in a template without metadata. Raises BadOption."""
    parsed = check(template)
    assert not parsed.fields
    return PromptFrame(*parsed.pieces)


# Each line has the code of a language and three sentences, the same in all languages.
_SENTENCES = Path(__file__).with_name("demonstrations.tsv")
SUMMARIZED = (
    "The museum was founded in 1912 by two brothers who collected clocks. It has more than four hundred of them, the "
    "oldest from 1640, and is open every day except Mondays.",
    "A museum with more than four hundred old clocks, open every day except Mondays.",
)


def translated(source: str, target: str) -> tuple[tuple[str, str], ...]:
    """Return pairs of sentences in both languages, by any of their codes; () if one has no sentences."""
    sides = [_sentences().get(languages.short_code(language) or "", ()) for language in (source, target)]
    return tuple(zip(*sides, strict=True)) if all(sides) else ()


@cache
def _sentences() -> dict[str, tuple[str, ...]]:
    rows = [line.split("\t") for line in _SENTENCES.read_text(encoding="utf-8").splitlines()]
    sentences_by_code = {code: tuple(sentences) for code, *sentences in rows}
    return {**sentences_by_code, "no": sentences_by_code["nb"]}
