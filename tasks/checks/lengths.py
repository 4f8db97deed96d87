"""The length that a translation is expected to have, by its languages."""

from __future__ import annotations

from docmill.tasks.checks.base import Context

# Letters of a text in each language, as multiples of its English ones.
_LENGTHS = {"en": 1.0, "fr": 1.15, "es": 1.12, "it": 1.12, "de": 1.12, "pt": 1.1, "nl": 1.08, "ru": 1.08, "pl": 1.08}
_OTHER = 1.05


def expected_ratio(context: Context) -> float:
    """Return the length of a translation in letters that is expected, as a multiple of its input's."""
    source, target = (_LENGTHS.get(one or "", _OTHER) for one in (context.source, context.target))
    return target / source
