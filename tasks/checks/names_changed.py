"""`names_changed`: names, addresses, code and placeholders that were lost, invented or replaced.

A name is compared by its letters and digits alone, so that CD-ROM is CDROM, and may stand inside a longer word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property, partial

from tasks.checks import names_by_language
from tasks.checks.base import Check, Context, Finding, quoted
from tasks.checks.words import folded, words

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
# Every exact name has one of these signs, and no white space.
_SIGNS = ("/", "@", "{", "%", "$", "_", "www", "--")
_SIGNED = re.compile(r"(?<!\S)(?=\S*?(?:[/@{%$_]|www|--))\S++")
# Names by their form: an inner capital letter, or letters before digits; no versions and units.
_FORMED = r"(?!v\d+\b|\d*[kKMGT]i?(?:Hz|[BbWVF])\b|\d+[a-zµ]{0,2}[A-Z][a-z]?\b)(?:\w*[a-z][A-Z]\w*|[A-Za-z]+\d\w*)\b"
# Words that may be names: capital letters, or one that begins no sentence. French has d'Alembert.
_CAPITAL = re.compile(
    r"(?<![A-Z] )\b[A-Z]{3,}\b(?! [A-Z]{2})|(?:(?<=[\w,;] )|(?<=\w['’])|(?<=[(/-]))[A-Z][a-z]{3,}\b"
)
_NAMED = re.compile(rf"(?P<formed>{_FORMED})|{_CAPITAL.pattern}")
# Both have a capital letter or a digit; this is the rest of such a word.
_MARKED = re.compile(r"[A-Z\d]\w*+")
_SCHEME = re.compile(r"(?:\w+://)?(?:www\.)?")
_NOT_LETTERS = re.compile(r"[\W_]+")
_CAPITALISED_NOUNS = frozenset({"de", "lb"})
_ALIKE = 0.65
_BEGINNING = 5
# Names change their places a little from language to language.
_NEAR = 0.12
_LONG = 4
# More capitalised words than this part of all words are nouns.
_MOST_CAPITALS = 0.15
_WORD_BEFORE = re.compile(r"(?<!\S)\W*(\w)\S*[ -]\Z")
_WORD_AFTER = re.compile(r"[ -]\W*(\w)")
_LONGEST_BESIDE = 40  # characters


@dataclass(frozen=True)
class _Name:
    """A name as it is written, with its offset in its text; ``place`` is the same as a part of the text's length."""

    written: str
    start: int
    place: float

    @property
    def end(self) -> int:
        return self.start + len(self.written)

    @property
    def stem(self) -> str:
        """The letters without a version at their end, which is a number: GTK2."""
        return self.letters.rstrip("0123456789") or self.letters

    @property
    def has_digit(self) -> bool:
        return any(map(str.isdigit, self.written))

    @cached_property
    def letters(self) -> str:
        return _letters(_SCHEME.sub("", self.written, count=1))


@dataclass(frozen=True)
class _Text:
    """A text for looking names up, by its letters and digits, and by its words."""

    text: str

    @cached_property
    def folded(self) -> str:
        return self.text.casefold()

    @cached_property
    def letters(self) -> str:
        return _letters(self.text)

    @cached_property
    def words(self) -> frozenset[str]:
        return frozenset(folded(self.text))

    @cached_property
    def letters_of_words(self) -> frozenset[str]:
        return frozenset(map(_letters, self.words))

    @cached_property
    def written(self) -> frozenset[str]:
        return frozenset(words(self.text))

    @cached_property
    def has_capitalised_nouns(self) -> bool:
        """True if so many words inside of sentences are capitalised that nouns seem to be, as in German."""
        return len(_CAPITAL.findall(self.text)) > _MOST_CAPITALS * len(words(self.text))

    def has_small(self, name: _Name) -> bool:
        """Return True for a capitalised word that stands in the text in small letters, too: it is no name."""
        return name.written.lower() in self.written

    def has(self, name: str) -> bool:
        """Return True if a name stands in the text. A long one may be part of a word, or several words."""
        singular = name.removesuffix("s")
        if len(name) >= _LONG:
            return singular in self.folded or singular in self.letters
        return not self.words.isdisjoint({name, singular, f"{singular}s"}) or name in self.letters_of_words

    def has_own(self, name: str) -> bool:
        """Return True if the text has the name, in a form or as its own language spells it."""
        return self.has_form(name) or not self.words.isdisjoint(names_by_language.spellings(name))

    def has_form(self, name: str) -> bool:
        """Return True if a word of the text is a form of the name."""
        if len(name) < _BEGINNING:
            return any(_alike(name, word) for word in self.words if len(word) == len(name))
        near = name[:2]
        return any(
            _alike(name, word)
            for word in self.words
            if len(word) >= _BEGINNING and (word[0] in near or name[0] in word[:2] or len(word) == len(name))
        )


def find(given: str, output: str, context: Context) -> Iterator[Finding]:
    """Yield names that only one text has. Of a text that may be shorter only those count that it adds.

    A capitalised word counts in a translation if it stands in the place of another.
    """
    before, after = _Text(given), _Text(output)
    exact, formed, capital = _absent(output, before)
    yield from map(_invented, _first(exact))
    if context.shortened:
        own = _CAPITALISED_NOUNS.isdisjoint({context.source, context.target}) and not before.has_capitalised_nouns
        alone = [name for name in capital if own and _stands_alone(name, output) and not before.has_own(name.letters)]
        yield from map(_invented, _first((*formed, *(name for name in capital if name.written.isupper()), *alone)))
        return
    yield from map(_invented, _first(name for name in formed if name.has_digit and not before.has_form(name.letters)))
    lost_exact, lost, lost_capital = _absent(given, after)
    for name in _first((*lost_exact, *lost)):
        said = f"{quoted(name.written)} of the input is not in the output."
        yield Finding(FLAG, said, lost=(name.start, name.end))
    if _CAPITALISED_NOUNS.isdisjoint({context.source, context.target}):
        lost += lost_capital
        formed += capital
    yield from _replaced(lost, formed, before, after, context)


def _absent(text: str, other: _Text) -> tuple[list[_Name], list[_Name], list[_Name]]:
    """Return the names that only this text has: exact ones, those of a form, and capitalised words."""
    exact = [name for name in _exact(text) if name.letters and not other.has(name.letters)]
    formed: list[_Name] = []
    capital: list[_Name] = []
    for start in map(partial(_beginning, text), _MARKED.finditer(text)):
        match = _NAMED.match(text, start)
        if match is None or match.group() in names_by_language.EMPHASIS:
            continue
        name = _name(match)
        if not other.has(name.letters) and not other.has(name.stem):
            (formed if match["formed"] else capital).append(name)
    return exact, formed, capital


def _beginning(text: str, marked: re.Match[str]) -> int:
    """Return where a word begins that has such a rest."""
    start = marked.start()
    while start and (text[start - 1].isalnum() or text[start - 1] == "_"):
        start -= 1
    return start


def _exact(text: str) -> Iterator[_Name]:
    for stretch in _SIGNED.finditer(text) if any(sign in text for sign in _SIGNS) else ():
        yield from map(_name, _EXACT.finditer(text, *stretch.span()))


def _name(match: re.Match[str]) -> _Name:
    return _Name(match.group().rstrip(".,;:!?"), match.start(), match.start() / len(match.string))


def _first(names: Iterable[_Name]) -> list[_Name]:
    """Return the first of the names that are written in one way."""
    return list({name.written: name for name in reversed(list(names))}.values())[::-1]


def _replaced(
    lost: Sequence[_Name], added: Sequence[_Name], before: _Text, after: _Text, context: Context
) -> Iterator[Finding]:
    """Yield the added names that stand where a name was lost, unless they are forms of words of the other text."""
    if not lost or not added:
        return
    gone = [name for name in lost if not after.has_own(name.letters) and not before.has_small(name)]
    new = [name for name in added if not before.has_own(name.letters) and not after.has_small(name)] if gone else []
    if not gone or not new:
        return
    places = names_by_language.places(context.source) | names_by_language.places(context.target)
    alone = [name for name in new if not any(_adjoin(name, other) for other in new)]  # others are a title, translated
    pairs = {
        name: old
        for name in alone
        for old in gone
        if abs(old.place - name.place) <= _NEAR and not {name.letters, old.letters} <= places
    }
    for name in _first(pairs):
        old = pairs[name]
        said = f"{quoted(name.written)} is not in the input, which has {quoted(old.written)} there."
        yield Finding(FLAG, said, name.start, name.end, lost=(old.start, old.end))


def _stands_alone(name: _Name, text: str) -> bool:
    """Return True for a capitalised word beside no other one: several are often a title, in words of its own."""
    beside = (
        _WORD_BEFORE.search(text, max(0, name.start - _LONGEST_BESIDE), name.start),
        _WORD_AFTER.match(text, name.end),
    )
    return not any(match is not None and match[1].isupper() for match in beside)


def _adjoin(one: _Name, other: _Name) -> bool:
    return other.start - one.end == 1 or one.start - other.end == 1


def _alike(one: str, other: str) -> bool:
    """Return True for forms of one name: other order (DNA, ADN), the same beginning, or most of the letters."""
    lengths = sorted((len(one), len(other)))
    if lengths[0] < _BEGINNING:
        return len(one) == len(other) and sorted(one) == sorted(other)
    if one[:_BEGINNING] == other[:_BEGINNING] or (len(one) == len(other) and sorted(one) == sorted(other)):
        return True
    if (one[0] not in other[:2] and other[0] not in one[:2]) or lengths[0] <= _ALIKE * lengths[1]:
        return False
    if 2 * sum(min(one.count(each), other.count(each)) for each in set(one)) < _ALIKE * (len(one) + len(other)):
        return False  # whatever their order
    return SequenceMatcher(None, one, other, autojunk=False).ratio() >= _ALIKE


def _invented(name: _Name) -> Finding:
    return Finding(FLAG, f"{quoted(name.written)} is not in the input.", name.start, name.end)


def _letters(text: str) -> str:
    return text.casefold() if text.isalnum() else _NOT_LETTERS.sub("", text).casefold()


NAMES_CHANGED = Check(FLAG, "names, addresses, code or placeholders were lost, invented or replaced", find)
