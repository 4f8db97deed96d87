"""The flags of a result, each with its meaning and its evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from storage.core.flags import name_of
from tasks.checks import CHECKS

# In the words of docs/flags.md; a flag with a value is listed up to its colon.
MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "output_truncated": "an output stopped at the model's limit and may lack its end",
        "empty": "the model made nothing of the text",
        "empty_window": "the model made nothing of one of the windows",
        "not_reduced": "the windows' summaries were hardly shorter than the text; they stand one after the other",
        "language_uncertain": "the guess of the language is unsure",
        **{one.flag: one.doubts for one in CHECKS.values()},
        "reduced": "the summaries of several windows were summarised again",
        "windowed": "something that is computed as one was longer than the model's window",
        "language": "the language that was found",
        "already_in_target": "the text is in the target language, and is its own translation",
        "attachments_left_out": "the mail has attachments, which are not read",
        "value_left_out": "a column of the source has a value for which JSON has no form",
        "nul_replaced": "the reader replaced NUL characters by U+FFFD",
        "surrogate_replaced": "the reader replaced halves of characters by U+FFFD",
        "invalid_utf8": "the reader replaced bytes that are no UTF-8 by U+FFFD",
        "output_nul_replaced": "the model wrote NUL characters; U+FFFD stands in their place",
        "output_surrogate_replaced": "the model wrote halves of characters; U+FFFD stands in their place",
    }
)
OF_DOCUMENT, OF_OUTPUT = "document", "output"


@dataclass(frozen=True)
class Flag:
    """A flag of a document, from its reading, or of an output. `evidence` has what the flag was raised for."""

    name: str
    of: str
    meaning: str | None
    evidence: tuple[str, ...] = ()


def meaning(name: str) -> str | None:
    """Return the meaning of a flag; None for one that this release does not know."""
    return MEANINGS.get(name_of(name).partition(":")[0])
