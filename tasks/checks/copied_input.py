"""`copied_input`: an output that is its input again, where it should be another text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from docmill.tasks.checks.base import Check, Context, Finding, quoted
from docmill.tasks.checks.words import folded, span, words

FLAG = "copied_input"
_RUN_WORDS = 4
# Names and code may be copied, so only ordinary words count: in scripts with capital letters those in small ones.
_LEAST_ORDINARY = 4
_CODE = re.compile(r"[\d_]")
_SHARE = 0.5
# A summary may quote its text, but not be all of it.
_SHARE_OF_SUMMARY, _SHARE_OF_SUMMARIZED = 0.9, 0.9
_LEAST_SUMMARIZED = 12


@dataclass(frozen=True, slots=True)
class _Copied:
    """``ordinary`` words of an output of which ``copied`` stand in runs of the input, the longest in ``longest``."""

    ordinary: int
    copied: int
    longest: tuple[int, int]


def find(given: str, output: str, context: Context) -> Iterator[Finding]:
    """Yield the longest copied run, if copied runs make up half of a translation, or a summary is its whole input."""
    found = _copied(folded(given), folded(output), words(output))
    share = found.copied / max(1, found.ordinary)
    if context.shortened:
        lengths = len(words(given)), len(words(output))
        whole = lengths[0] >= _LEAST_SUMMARIZED and lengths[1] >= _SHARE_OF_SUMMARIZED * lengths[0]
        if not whole or share < _SHARE_OF_SUMMARY:
            return
    elif share < _SHARE or found.copied < _LEAST_ORDINARY:
        return
    start, end = span(output, *found.longest)
    said = f"{share:.0%} of its ordinary words are copied from the input: {quoted(output[start:end])}"
    yield Finding(FLAG, said, start, end)


def _copied(given: Sequence[str], output: Sequence[str], written: Sequence[str]) -> _Copied:
    runs = set(_runs(given))
    if runs.isdisjoint(_runs(output)):
        return _Copied(0, 0, (0, 0))
    covered = bytearray(len(output))
    for place, run in enumerate(_runs(output)):
        if run in runs:
            covered[place : place + _RUN_WORDS] = b"\1" * _RUN_WORDS
    ordinary = [one == two and not _CODE.search(one) for one, two in zip(written, output, strict=True)]
    copied = sum(1 for one, is_ordinary in zip(covered, ordinary, strict=True) if one and is_ordinary)
    return _Copied(sum(ordinary), copied, _longest(covered))


def _runs(of: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(of[place:] for place in range(_RUN_WORDS)), strict=False)


def _longest(covered: bytearray) -> tuple[int, int]:
    """Return the first and last number of the longest run of covered words."""
    best = (0, 0)
    for run in bytes(covered).split(b"\0"):
        if len(run) > best[1] - best[0] + 1:
            first = bytes(covered).find(run)
            best = (first, first + len(run) - 1)
    return best


COPIED_INPUT = Check(FLAG, "the output is the input again, or half of its words are copied from it", find)
