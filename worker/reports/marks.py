"""Mark what differs between an input and an output, for people who compare them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

WORD = re.compile(r"https?://\S*[\w/]|[^\W_]+(?:[.,:/_-][^\W_]+)*")
SAME_LANGUAGE = 0.5  # the least share of the output's words that stand in the input, too
NEVER_SPACED = re.compile(r"[぀-ヿ㐀-鿿가-힯฀-๿]")


class Part(NamedTuple):
    """A stretch of a text; `marked` if it differs."""

    text: str
    marked: bool


def marked(source: str, output: str) -> tuple[list[Part], list[Part]]:
    """Return both texts in parts, with a mark on the output's words that do not stand in the input.

    Where most words of the output are new, it is taken for another language: then only words that no translation
    changes are marked, such as numbers and addresses. In scripts without spaces nothing else is marked either.
    """
    theirs, ours = _words(source), _words(output)
    common = sum(word in theirs for word in ours)
    every = common >= SAME_LANGUAGE * len(ours) and not NEVER_SPACED.search(output)
    before = [Part(source, False)] if every else [*_parts(source, ours, every=False)]
    return before, [*_parts(output, theirs, every=every)]


def _is_kept(word: str) -> bool:
    """Return True for a word that translations keep: one with a digit, a sign or an inner capital."""
    return any(char.isdigit() or char in "./_:" for char in word) or any(char.isupper() for char in word[1:])


def _words(text: str) -> set[str]:
    return {found[0].casefold() for found in WORD.finditer(text)}


def _parts(text: str, others: set[str], *, every: bool) -> Iterator[Part]:
    end = 0
    for found in WORD.finditer(text):
        word = found[0]
        if word.casefold() in others or not (every or _is_kept(word)):
            continue
        if end < found.start():
            yield Part(text[end : found.start()], False)
        yield Part(word, True)
        end = found.end()
    if end < len(text):
        yield Part(text[end:], False)
