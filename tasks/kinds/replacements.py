"""Parts of a text replaced: overlapping findings joined, and each replacement with its place in both texts."""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Method = Literal["tag", "hash", "mask"]
# 40 bits: among 100,000 names two share a pseudonym with a probability of half a percent.
_PSEUDONYM_CHARS = 10
_WRITTEN_IN_GROUPS = frozenset({"IBAN", "CARD", "PHONE"})
# Scripts without spaces between words: Thai, Lao, Burmese, Khmer, kana and Han.
_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x9FFF),
    (0x20000, 0x3FFFF),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A part ``[start, end)`` of a text to be replaced; offsets in characters."""

    label: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Replaced:
    """A replacement: ``text`` stands at ``[start, end)`` of the new text for ``[source_start, source_end)``."""

    label: str
    text: str
    start: int
    end: int
    source_start: int
    source_end: int
    score: float


def joined(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings of which no two overlap, in the order of the text.

    Findings that overlap become one, with the label and score of the longest of them, and of the first of those.
    """
    found: list[Finding] = []
    longest = 0
    for one in sorted(findings, key=lambda one: (one.start, one.start - one.end)):
        if one.start >= one.end:
            continue
        if not found or one.start >= found[-1].end:
            found.append(one)
            longest = one.end - one.start
            continue
        before = found[-1]
        named = one if one.end - one.start > longest else before
        longest = max(longest, one.end - one.start)
        found[-1] = Finding(named.label, before.start, max(before.end, one.end), named.score)
    return found


def replaced(
    text: str, findings: Iterable[Finding], replacement: Callable[[str, str], str]
) -> tuple[str, list[Replaced]]:
    """Return the text with ``replacement(label, part)`` for each finding, and the replacements in its order."""
    pieces: list[str] = []
    done: list[Replaced] = []
    length = at = 0
    for one in joined(findings):
        kept, new = text[at : one.start], replacement(one.label, text[one.start : one.end])
        pieces += [kept, new]
        start = length + len(kept)
        length = start + len(new)
        at = one.end
        done.append(Replaced(one.label, new, start, length, one.start, one.end, one.score))
    return "".join([*pieces, text[at:]]), done


def replacing(method: Method, salt: str = "") -> Callable[[str, str], str]:
    """Return the function that replaces a part of a text, given its label."""
    if method == "mask":
        return lambda _label, part: "".join(character if character.isspace() else "*" for character in part)
    if method == "tag":
        return lambda label, _part: f"[{label}]"
    key = salt.encode()
    return lambda label, part: f"[{label}-{_pseudonym(key, label, part)}]"


def _pseudonym(key: bytes, label: str, part: str) -> str:
    """Return digits that are the same for the same name or number, however it is spaced or capitalised."""
    plain = " ".join(unicodedata.normalize("NFKC", part).casefold().split())
    if label in _WRITTEN_IN_GROUPS:
        plain = "".join(character for character in plain if character.isalnum() or character == "+")
    return hmac.new(key, f"{label}\0{plain}".encode(), hashlib.sha256).hexdigest()[:_PSEUDONYM_CHARS]


def whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """Return ``[start, end)`` widened to the ends of the words that it cuts. Scripts without spaces are left."""
    while start > 0 and _in_word(text[start - 1]) and _in_word(text[start]):
        start -= 1
    while 0 < end < len(text) and _in_word(text[end - 1]) and _in_word(text[end]):
        end += 1
    return start, end


def _in_word(character: str) -> bool:
    if character.isascii():
        return character.isalnum()
    code = ord(character)
    letters = character.isalnum() or unicodedata.category(character).startswith("M")
    return letters and not any(first <= code <= last for first, last in _UNSPACED)
