"""Checks of outputs. Each raises a flag on a doubtful output, and has a line in `CHECKS`.

A check is a pure function of input, output and context (`tasks.checks.base`). It loads no model and costs little.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType

from docmill.storage.core.specs import LOW_CONFIDENCE, Outcome
from docmill.storage.features import load_by_name
from docmill.storage.outputs.output_types import TEXTS
from docmill.storage.steps.conditions import flag_name
from docmill.tasks.checks.base import Check as Check
from docmill.tasks.checks.base import Context as Context
from docmill.tasks.checks.base import Finding as Finding
from docmill.tasks.checks.base import doubt_confidence as doubt_confidence
from docmill.tasks.checks.coverage import COPIED_INPUT, LENGTH_RATIO, MISSING_SENTENCES
from docmill.tasks.checks.names import NAMES_CHANGED
from docmill.tasks.checks.numbers_changed import NUMBERS_CHANGED
from docmill.tasks.checks.repetition import REPETITION
from docmill.tasks.checks.wrong_language import WRONG_LANGUAGE

log = logging.getLogger("docmill.checks")

CHECKS: tuple[Check, ...] = (
    REPETITION,
    LENGTH_RATIO,
    COPIED_INPUT,
    WRONG_LANGUAGE,
    MISSING_SENTENCES,
    NUMBERS_CHANGED,
    NAMES_CHANGED,
)

_COPIED, _LANGUAGE = "already_in_target", "language:"  # flags of translate from auto


@cache
def all_checks() -> Mapping[str, Check]:
    """Return docmill's checks and those of features, by their flags. Raises StorageError."""
    return MappingProxyType(load_by_name("checks", Check, CHECKS, name="flag"))


@cache
def _meanings() -> Mapping[str, str]:
    # In the words of docs/flags.md; a flag with a value is listed up to its colon.
    return {
        "output_truncated": "an output stopped at the model's limit and may lack its end",
        "empty": "the model made nothing of the text",
        "empty_window": "the model made nothing of one of the windows",
        "not_reduced": "the windows' summaries were hardly shorter than the text; they stand one after the other",
        "language_uncertain": "the guess of the language is unsure",
        **{check.flag: check.doubts for check in all_checks().values()},
        LOW_CONFIDENCE: "the model found its own words improbable",
        "reduced": "the summaries of several windows were summarized again",
        "windowed": "the text was longer than the model's window and was computed in parts",
        "language": "the language that was found",
        "already_in_target": "the text is in the target language, and is its own translation",
        "attachments_left_out": "the mail has attachments, which are not read",
        "value_left_out": "a column of the source has no name, or a value for which JSON has no form",
        "recognized": "the text, or a part of it, was recognized in pictures of pages (--ocr)",
        "nul_replaced": "the reader replaced NUL characters by U+FFFD",
        "surrogate_replaced": "the reader replaced halves of characters by U+FFFD",
        "invalid_utf8": "the reader replaced bytes that are no UTF-8 by U+FFFD",
        "assumed_cp1252": "the reader read bytes that are no UTF-8 as Windows-1252",
        "output_nul_replaced": "the model wrote NUL characters; U+FFFD stands in their place",
        "output_surrogate_replaced": "the model wrote halves of characters; U+FFFD stands in their place",
    }


def meaning(name: str) -> str | None:
    """Return the meaning of a flag; None if this release does not know it."""
    return _meanings().get(flag_name(name).partition(":")[0])


def in_words(flag: str) -> str:
    """Return a flag as a remark for people: its meaning, and the value in the flag."""
    words, value = meaning(flag), flag.partition(":")[2]
    return flag if words is None else f"{words}: {value}" if value else words


@dataclass(frozen=True)
class Checks:
    """The checks for the outputs of a spec, by their flags, with their context.

    An output with less confidence than ``least_confidence`` is doubtful, unless that is None.
    """

    flags: tuple[str, ...] = ()
    context: Context = field(default_factory=Context)
    least_confidence: float | None = None

    def findings(self, source_text: str, output: str, flags: Iterable[str] = ()) -> list[Finding]:
        """Return all findings in an output with these flags, in the order of the checks.

        An error of a check is logged, and the check finds nothing.
        """
        context = self.context
        for flag in flags:
            if flag == _COPIED:
                return []
            if flag.startswith(_LANGUAGE):
                context = replace(context, source=flag.removeprefix(_LANGUAGE))
        return [
            finding for flag in self.flags for finding in _run_check(all_checks()[flag], source_text, output, context)
        ]


NONE = Checks()
# The checks of an output that may say something else than its input.
AS_WRITTEN = Checks((REPETITION.flag,))


def written(outcome: Outcome) -> list[str]:
    """Return the texts of an outcome that a model wrote: one, several, or the answers of a record."""
    data = outcome.data or {}
    if TEXTS in data:
        return list(data[TEXTS])
    answers = data.get("data", {}).values()
    return [outcome.text] if outcome.text is not None else [answer for answer in answers if isinstance(answer, str)]


def _run_check(check: Check, source_text: str, output: str, context: Context) -> list[Finding]:
    try:
        return list(check.find(source_text, output, context))
    except Exception:  # a broken check loses no output
        log.exception("check.raised", extra={"check": check.flag})
        return []
