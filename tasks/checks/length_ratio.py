"""`length_ratio`: a translation that is far longer or shorter than its input, or a summary that is longer."""

from __future__ import annotations

from collections.abc import Iterator

from docmill.tasks.checks.base import Check, Context, Finding
from docmill.tasks.checks.lengths import expected_ratio
from docmill.tasks.checks.words import letters

FLAG = "length_ratio"
# The shortest texts vary most: the bounds of the ratio widen with the inverse of the length.
_LEAST, _MOST = 0.64, 1.8
_LEAST_LETTERS = 20
_WIDER = 25.0
_LEAST_SUMMARIZED = 60


def find(given: str, output: str, context: Context) -> Iterator[Finding]:
    """Yield one finding if the ratio of the lengths is outside its bounds. Letters are counted, not white space."""
    before, after = letters(given), letters(output)
    if before < _LEAST_LETTERS or not after:
        return
    ratio = after / before
    expected = expected_ratio(context)
    if context.shortened:
        if ratio > 1 and before >= _LEAST_SUMMARIZED:
            yield Finding(FLAG, f"The summary is {ratio:.1f} times as long as its text.")
    elif ratio < expected * _LEAST / (1 + _WIDER / before):
        yield Finding(FLAG, f"The output has {ratio:.0%} of the length of the input.")
    elif ratio > expected * _MOST * (1 + _WIDER / before):
        yield Finding(FLAG, f"The output is {ratio:.1f} times as long as the input.")


LENGTH_RATIO = Check(FLAG, "a translation is far longer or shorter than its input, a summary longer", find)
