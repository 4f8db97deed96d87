"""Ordinary English words, to tell them from names where they are written with a capital letter.

`python -m bench.english_words` writes the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

WORDS = Path(__file__).with_name("english_words.txt")
# Endings of forms of a word, and the letters that the word has in their place.
_ENDINGS = (("s", ""), ("es", ""), ("ies", "y"), ("ed", ""), ("ed", "e"), ("ing", ""), ("ing", "e"), ("ly", ""))
_MOSTLY = 0.6
_LEAST_WORDS = 5


def is_ordinary(word: str) -> bool:
    """Return True for an ordinary English word in small letters, or a regular form of one."""
    known = _known()
    return word in known or any(
        word.endswith(ending) and word.removesuffix(ending) + instead in known for ending, instead in _ENDINGS
    )


def is_english(written: Sequence[str]) -> bool:
    """Return True if most of these words of a text are ordinary English ones, of those in small letters."""
    small = [word for word in written if word.islower() and word.isalpha() and len(word) > 2]
    known = _known()
    return len(small) >= _LEAST_WORDS and sum(word in known for word in small) >= _MOSTLY * len(small)


@cache
def _known() -> frozenset[str]:
    return frozenset(WORDS.read_text(encoding="utf-8").split())
