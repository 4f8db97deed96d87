"""The parts of every check: its context, the words of the two texts, and its findings.

A word is a run of characters without white space or punctuation. In scripts without spaces, each character is a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

from docmill.storage.core.specs import LOW_CONFIDENCE
from docmill.tasks.languages import UNSPACED


@dataclass(frozen=True, slots=True)
class Context:
    """Facts about an output that its two texts do not show.

    ``source`` and ``target`` are the codes of the languages of input and output; None if unknown. ``shortened``: the
    output may leave out parts of the input, such as a summary. ``same_language``: both texts have the same language.
    """

    source: str | None = None
    target: str | None = None
    shortened: bool = False
    same_language: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """A reason to doubt an output: its flag, and a sentence for people.

    ``start`` and ``end`` are offsets in characters of the output; None if the output lacks something. ``lost`` is the
    place in the input of the part that the output lacks or has replaced.
    """

    flag: str
    evidence: str
    start: int | None = None
    end: int | None = None
    lost: tuple[int, int] | None = None

    def moved(self, by: int) -> Finding:
        """Return the finding in an output that begins ``by`` characters later."""
        if self.start is None or self.end is None:
            return self
        return replace(self, start=self.start + by, end=self.end + by)


@dataclass(frozen=True)
class Check:
    """A check by its flag.

    ``find`` yields its findings for an input, an output and a context. It depends on nothing else, so that the same
    texts have the same findings later. ``doubts`` describes the findings in a few words.
    """

    flag: str
    doubts: str
    find: Callable[[str, str, Context], Iterable[Finding]]


_MOST_QUOTED = 60


def quoted(text: str) -> str:
    """Return a text in quotation marks on one line, without its middle if it is long."""
    line = " ".join(text.split())
    half = _MOST_QUOTED // 2
    return f"“{line}”" if len(line) <= _MOST_QUOTED else f"“{line[:half]} … {line[-half:]}”"


_PUNCTUATION = (
    r"!-/:-@\[-`{-\u00a9\u00ab-\u00b1\u00b4\u00b6-\u00b8\u00bb\u00bf\u060c\u061b\u061f\u0964\u0965"
    r"\u2010-\u206f\u2190-\u2bff\u3000-\u303f\uff00-\uff0f\uff1a-\uff20"
)
_WORD = re.compile(rf"(?!\u30fb)[{UNSPACED}]|[^\s{_PUNCTUATION}{UNSPACED}]+")
# For ASCII texts, which `str.translate` splits faster.
_SPACES = {code: " " for code in range(128) if re.match(f"[{_PUNCTUATION}]", chr(code))}
_UNSPACED_CHARACTER = re.compile(f"[{UNSPACED}]")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_LETTERS_OF_HAN = 2.8
# Several checks read the texts of a document one after the other.
_KEPT = 8


@lru_cache(maxsize=_KEPT)
def words(text: str) -> tuple[str, ...]:
    """Return the words of a text."""
    return tuple(text.translate(_SPACES).split() if text.isascii() else _WORD.findall(text))


@lru_cache(maxsize=_KEPT)
def folded(text: str) -> tuple[str, ...]:
    """Return the case-folded words of a text."""
    return words(text) if text.islower() else tuple(map(str.casefold, words(text)))


def ngrams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """Yield each run of ``n`` words."""
    return zip(*(words[place:] for place in range(n)), strict=False)


def has_words(text: str) -> bool:
    """Return False for a text of white space and punctuation only."""
    return _WORD.search(text) is not None


def span(text: str, first: int, last: int) -> tuple[int, int]:
    """Return the offsets in characters of the words number ``first`` to ``last``, both included."""
    places = list(islice(_WORD.finditer(text), first, last + 1))
    return places[0].start(), places[-1].end()


def is_unspaced(word: str) -> bool:
    """Return True for a word that is a character of a script without spaces."""
    return _UNSPACED_CHARACTER.fullmatch(word) is not None


def letters(text: str) -> float:
    """Return the length of a text in letters, without white space and punctuation.

    A Chinese character counts as several letters.
    """
    count = sum(map(len, words(text)))
    return count if text.isascii() else count + (_LETTERS_OF_HAN - 1) * len(_HAN.findall(text))


def doubt_confidence(confidence: float | None, least: float | None) -> Finding | None:
    """Return a finding for a confidence below ``least``; None if there is none, or one of the two is unknown.

    Both are mean probabilities of a text's tokens, from 0 to 1 (`tasks.kinds.base`).
    """
    if confidence is None or least is None or confidence >= least:
        return None
    return Finding(LOW_CONFIDENCE, f"its tokens have a mean probability of {confidence:.2f}, less than {least:g}")
