"""Names of a text: how they are read, and how they are looked up in another text.

A name is compared by its letters and digits alone, so that CD-ROM is CDROM, and may stand inside a longer word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import Enum, auto
from functools import cached_property

from docmill.tasks.checks import english, names_by_language
from docmill.tasks.checks.words import folded, words

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
# Words that may be names: in capital letters, or with one that begins no sentence. French has d'Alembert.
_ACRONYM = r"(?<![A-Z] )\b[A-Z]{3,}\b(?! [A-Z]{2})"
_CAPITAL = r"(?:(?<=[\w,;][ \u00a0\u202f])|(?<=\w['’])|(?<=[(/-]))[A-Z][a-z]{3,}\b"
_INSIDE = re.compile(rf"{_ACRONYM}|{_CAPITAL}")
_NAMED = re.compile(
    rf"(?P<formed>{_FORMED})|(?P<acronym>{_ACRONYM})|(?P<capital>{_CAPITAL})|\b[A-Z](?:[a-z]{{3,}}|[A-Z]{{2,}})\b"
)
# Every name has a capital letter or a digit; this is the rest of such a word.
_MARKED = re.compile(r"[A-Z\d]\w*+")
_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_SCHEME = re.compile(r"(?:\w+://)?(?:www\.)?")
_NOT_LETTERS = re.compile(r"[\W_]+")
_ALIKE, _ALIKE_BUT_BEGINNING = 0.65, 0.85
_BEGINNING = 5
_LONG, _SHORT = 4, 3
# More capitalised words than this part of all words are nouns.
_MOST_CAPITALS = 0.15


class Form(Enum):
    """Forms of names, from the surest to the least sure; INITIAL may begin a sentence, or be shouted."""

    EXACT = auto()
    FORMED = auto()
    ACRONYM = auto()
    CAPITAL = auto()
    INITIAL = auto()


@dataclass(frozen=True)
class Name:
    """A name as it is written, with its offset in its text; ``place`` is the same as a part of the text's length."""

    written: str
    start: int
    place: float
    form: Form

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

    @property
    def is_capitalised(self) -> bool:
        """True for a name that ordinary words may look like."""
        return self.form in (Form.CAPITAL, Form.INITIAL) and not self.written.isupper()

    @property
    def is_ordinary(self) -> bool:
        """True for an ordinary English word that has a capital letter, or is shouted beside others."""
        return self.form in (Form.CAPITAL, Form.INITIAL) and english.is_ordinary(self.written.lower())

    @cached_property
    def letters(self) -> str:
        return _letters(_SCHEME.sub("", self.written, count=1))

    @cached_property
    def parts(self) -> list[str]:
        """The words of a compound, such as style and sheets of StyleSheets, in small letters."""
        return [part.lower() for part in _PART.findall(self.written)]


@dataclass(frozen=True)
class Text:
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
        return len(_INSIDE.findall(self.text)) > _MOST_CAPITALS * len(words(self.text))

    @cached_property
    def is_english(self) -> bool:
        return english.is_english(words(self.text))

    def has_small(self, name: Name) -> bool:
        """Return True for a capitalised word that stands in the text in small letters, too: it is no name."""
        return name.written.lower() in self.written

    def has(self, name: str) -> bool:
        """Return True if a name stands in the text. A long one may be part of a word, or several words."""
        singular = name.removesuffix("s")
        if len(name) >= _LONG:
            return singular in self.folded or singular in self.letters
        return not self.words.isdisjoint({name, singular, f"{singular}s"}) or name in self.letters_of_words

    @cached_property
    def initials(self) -> str:
        """The first letters of all words that are long or capitalised."""
        return "".join(word[0] for word in words(self.text) if len(word) > _SHORT or word[0].isupper()).casefold()

    def has_longer(self, name: str) -> bool:
        """Return True if a word of the text begins with the name, such as md5sums with md5."""
        return any(word.startswith(name) for word in self.words)

    def has_shorter(self, name: str) -> bool:
        """Return True if a word of the text with a digit begins the name, such as md5 does md5sums."""
        return any(len(word) >= _SHORT and name.startswith(word) and not word.isalpha() for word in self.words)

    def has_ending(self, name: str) -> bool:
        """Return True if a word of the text ends with the name, such as uDNS with DNS."""
        return any(word.endswith(name) for word in self.words)

    def has_anagram(self, name: str) -> bool:
        """Return True if a word of the text has the letters of the name in any order, as ADN has those of DNA."""
        return any(len(word) == len(name) and sorted(word) == sorted(name) for word in self.words)

    def spells_out(self, acronym: str) -> bool:
        """Return True if words with the letters of the acronym follow one another, in this order or backwards."""
        return acronym in self.initials or acronym[::-1] in self.initials

    def has_spelling(self, name: str) -> bool:
        """Return True if the text has the name as its own language spells it."""
        return not self.words.isdisjoint(names_by_language.spellings(name))

    def has_form(self, name: str, alike: float = _ALIKE) -> bool:
        """Return True if a word of the text is a form of the name."""
        if len(name) < _BEGINNING:
            return any(are_alike(name, word) for word in self.words if len(word) == len(name))
        near = name[:2]
        return any(
            are_alike(name, word, alike)
            for word in self.words
            if len(word) >= _BEGINNING and (word[0] in near or name[0] in word[:2] or len(word) == len(name))
        )


def exact(text: str) -> Iterator[Name]:
    """Yield addresses, paths, options, placeholders and identifiers."""
    for stretch in _SIGNED.finditer(text) if any(sign in text for sign in _SIGNS) else ():
        for match in _EXACT.finditer(text, *stretch.span()):
            yield _name(match, Form.EXACT)


def named(text: str, besides: Container[str], initial: Callable[[str], bool]) -> Iterator[Name]:
    """Yield names of the other forms that are not written in one of these ways. They may be ordinary words.

    Of the words that may begin a sentence, ``initial`` says which to yield.
    """
    for marked in _MARKED.finditer(text):
        start = _beginning(text, marked)
        if text[start : marked.end()] in besides or (match := _NAMED.match(text, start)) is None:
            continue
        if (match.lastgroup is not None or initial(match[0])) and match[0] not in names_by_language.EMPHASIS:
            yield _name(match, Form[(match.lastgroup or "initial").upper()])


def are_alike(one: str, other: str, alike: float = _ALIKE) -> bool:
    """Return True for forms of one name: other order (DNA, ADN), the same beginning, or most of the letters."""
    lengths = sorted((len(one), len(other)))
    if lengths[0] < _BEGINNING:
        return len(one) == len(other) and sorted(one) == sorted(other)
    if one[:_BEGINNING] == other[:_BEGINNING] or (len(one) == len(other) and sorted(one) == sorted(other)):
        return True
    if lengths[0] <= alike * lengths[1]:
        return False
    if one[0] not in other[:2] and other[0] not in one[:2]:
        alike = max(alike, _ALIKE_BUT_BEGINNING)
    if 2 * sum(min(one.count(each), other.count(each)) for each in set(one)) < alike * (len(one) + len(other)):
        return False  # whatever their order
    return SequenceMatcher(None, one, other, autojunk=False).ratio() >= alike


def _beginning(text: str, marked: re.Match[str]) -> int:
    """Return where a word begins that has such a rest."""
    start = marked.start()
    while start and (text[start - 1].isalnum() or text[start - 1] == "_"):
        start -= 1
    return start


def _name(match: re.Match[str], form: Form) -> Name:
    return Name(match.group().rstrip(".,;:!?"), match.start(), match.start() / len(match.string), form)


def _letters(text: str) -> str:
    return text.casefold() if text.isalnum() else _NOT_LETTERS.sub("", text).casefold()
