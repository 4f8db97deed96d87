"""`names_changed`: names, addresses, code and placeholders that were lost, invented or replaced.

A name is compared by its letters and digits alone, so that CD-ROM is CDROM, and may stand inside a longer word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from tasks.checks.base import Check, Context, Finding, quoted

FLAG = "names_changed"
# Names that no translation changes.
_EXACT = re.compile(
    r"(?:https?|ftp|git|ssh)://[^\s<>\"'()\[\]{}«»]+|www\.[^\s<>\"'()\[\]{}«»]+"  # web addresses
    r"|[\w.+-]+@[\w-]+(?:\.[\w-]+)+"  # mail addresses
    r"|\{\{?\w*\}?\}|%(?:\(\w+\))?[sd]\b|\$\{?\w+\}?"  # placeholders
    r"|(?<![\w-])--[a-z][\w-]*"  # options
    r"|(?<![\w/.:+-])~?/(?:[\w.+-]+/)+[\w.+-]*\w"  # paths
    r"|\b[a-zA-Z]\w*_\w+\b"  # identifiers
)
# Names by their form: an inner capital letter, or letters before digits. Ordinals and units have digits first.
_FORMED = re.compile(r"\b(?:\w*[a-z][A-Z]\w*|[A-Za-z]+\d\w*)\b")
# Words that may be names: capital letters, or one that begins no sentence.
_CAPITAL = re.compile(r"\b[A-Z]{2,}\b|(?<=[\w,;] )[A-Z][a-z]{2,}\b")
_NOT_LETTERS = re.compile(r"[\W_]+")
_CAPITALISED_NOUNS = frozenset({"de", "lb"})
_ALIKE = 0.5
# More words than these are a title that was translated.
_MOST_REPLACED = 1


@dataclass(frozen=True, slots=True)
class _Name:
    """A name as it is written, with its place in its text."""

    written: str
    start: int
    end: int

    @property
    def letters(self) -> str:
        return _letters(self.written)


def find(given: str, output: str, context: Context) -> Iterator[Finding]:
    """Yield names that only one text has. Of a text that may be shorter only those count that it adds.

    A capitalised word counts in a translation if it stands in the place of another.
    """
    before, after = _letters(given), _letters(output)
    for name in _absent(_EXACT, output, before):
        yield _invented(name)
    lost, added = list(_absent(_FORMED, given, after)), list(_absent(_FORMED, output, before))
    if context.shortened:
        yield from map(_invented, added)
        return
    for name in (*_absent(_EXACT, given, after), *lost):
        yield Finding(FLAG, f"{quoted(name.written)} of the input is not in the output.")
    yield from map(_invented, _replacing(lost, added))
    if _CAPITALISED_NOUNS.isdisjoint({context.source, context.target}):
        lost, added = list(_absent(_CAPITAL, given, after)), list(_absent(_CAPITAL, output, before))
        if len(lost) == len(added) <= _MOST_REPLACED:
            yield from map(_invented, _replacing(lost, added))


def _absent(form: re.Pattern[str], text: str, others: str) -> Iterator[_Name]:
    """Yield the names of a form in a text whose letters another text does not have."""
    seen: set[str] = set()
    for match in form.finditer(text):
        written = match.group().rstrip(".,;:!?")
        letters = _letters(written)
        if written not in seen and letters.removesuffix("s") not in others:
            seen.add(written)
            yield _Name(written, match.start(), match.start() + len(written))


def _replacing(lost: Sequence[_Name], added: Sequence[_Name]) -> list[_Name]:
    """Return the added names that are no other form of a lost one, if a lost one has no other form either."""
    gone = [one for one in lost if not any(_alike(one.letters, name.letters) for name in added)]
    new = [name for name in added if not any(_alike(one.letters, name.letters) for one in lost)]
    return new if gone else []


def _alike(one: str, other: str) -> bool:
    """Return True for forms of one name: the same letters in another order (DNA, ADN), or most of them (Spain)."""
    return sorted(one) == sorted(other) or SequenceMatcher(None, one, other, autojunk=False).ratio() >= _ALIKE


def _invented(name: _Name) -> Finding:
    return Finding(FLAG, f"{quoted(name.written)} is not in the input.", name.start, name.end)


def _letters(text: str) -> str:
    return _NOT_LETTERS.sub("", text).casefold()


NAMES_CHANGED = Check(FLAG, "names, addresses, code or placeholders were lost, invented or replaced", find)
