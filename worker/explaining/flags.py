"""The flags of a result, each with its meaning and its evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from docmill.storage.core.specs import LOW_CONFIDENCE, Spec
from docmill.storage.steps.conditions import flag_name
from docmill.tasks import kinds
from docmill.tasks.checks import Finding, all_checks, doubt_confidence
from docmill.tasks.kinds import Traits

# In the words of docs/flags.md; a flag with a value is listed up to its colon.
MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "output_truncated": "an output stopped at the model's limit and may lack its end",
        "empty": "the model made nothing of the text",
        "empty_window": "the model made nothing of one of the windows",
        "not_reduced": "the windows' summaries were hardly shorter than the text; they stand one after the other",
        "language_uncertain": "the guess of the language is unsure",
        **{one.flag: one.doubts for one in all_checks().values()},
        LOW_CONFIDENCE: "the model found its own words improbable",
        "reduced": "the summaries of several windows were summarised again",
        "windowed": "something that is computed as one was longer than the model's window",
        "language": "the language that was found",
        "already_in_target": "the text is in the target language, and is its own translation",
        "attachments_left_out": "the mail has attachments, which are not read",
        "value_left_out": "a column of the source has no name, or a value for which JSON has no form",
        "recognised": "the text, or a part of it, was recognised in pictures of pages (--ocr)",
        "nul_replaced": "the reader replaced NUL characters by U+FFFD",
        "surrogate_replaced": "the reader replaced halves of characters by U+FFFD",
        "invalid_utf8": "the reader replaced bytes that are no UTF-8 by U+FFFD",
        "assumed_cp1252": "the reader read bytes that are no UTF-8 as Windows-1252",
        "output_nul_replaced": "the model wrote NUL characters; U+FFFD stands in their place",
        "output_surrogate_replaced": "the model wrote halves of characters; U+FFFD stands in their place",
    }
)
OF_DOCUMENT, OF_OUTPUT, OF_TODAY = "document", "output", "today"


@dataclass(frozen=True)
class Flag:
    """A flag of a document, from its reading, or of an output. `evidence` has what a check raised it for.

    One of OF_TODAY is no flag of the result: a check of this release raises it, and none did when it was computed.
    """

    name: str
    of: str
    meaning: str | None
    evidence: tuple[str, ...] = ()


def of_output(
    spec: Spec,
    traits: Traits,
    given: str,
    output: Mapping[str, Any],
    stored: Sequence[str],
    confidence: float | None = None,
) -> list[Flag]:
    """Return the stored flags of an output in its JSON form, with what the checks find in it, then those of today.

    `given` is the text that was computed, and `confidence` the output's, if it is known. A check finds the same in
    the same texts, so its evidence need not be kept.
    """
    checks = kinds.checks(spec, traits)
    found: dict[str, list[str]] = {}
    for text in _written(output):
        for finding in checks.findings(given, text, stored):
            found.setdefault(finding.flag, []).append(_said(finding))
    if unsure := doubt_confidence(confidence, checks.least_confidence):
        found[unsure.flag] = [_said(unsure)]
    kept = [Flag(name, OF_OUTPUT, meaning(name), tuple(found.get(name, ()))) for name in stored]
    today = [name for name in found if name not in stored]
    return [*kept, *(Flag(name, OF_TODAY, meaning(name), tuple(found[name])) for name in today)]


def _written(output: Mapping[str, Any]) -> list[str]:
    texts = output.get("texts") or [output.get("text"), *(output.get("data") or {}).values()]
    return [text for text in texts if isinstance(text, str)]


def _said(finding: Finding) -> str:
    if finding.start is not None and finding.end is not None:
        return f"{finding.evidence} ({_place(finding.start, finding.end)} of the output)"
    return f"{finding.evidence} ({_place(*finding.lost)} of the input)" if finding.lost else finding.evidence


def _place(start: int, end: int) -> str:
    return f"characters {start:,} to {end:,}"


def meaning(name: str) -> str | None:
    """Return the meaning of a flag; None for one that this release does not know."""
    return MEANINGS.get(flag_name(name).partition(":")[0])
