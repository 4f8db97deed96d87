"""E-mail and web addresses in any surroundings. Every expression reads a text once, from left to right."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# Letters of scripts that combine characters, which `\w` leaves out, and the marks that join them.
_MARKS = "\u00ad\u0300-\u036f\u0591-\u05bd\u064b-\u065f\u0900-\u0963\u0966-\u0dff\u0e31-\u0e4e\u200c\u200d"
_LATIN = "A-Za-z\u00c0-\u024f"
_LABEL = rf"[\w{_MARKS}-]"
# A domain ends with any word of letters of one script, so that no list of endings grows old.
_DOMAIN = (
    rf"(?:{_LABEL}++[.\uff0e\uff61])+"
    rf"(?:[Xx][Nn]--[A-Za-z0-9-]{{2,59}}|[{_LATIN}]{{2,63}}|(?:(?![0-9_{_LATIN}])[\w{_MARKS}]){{2,63}})"
)
_LOCAL = rf"[\w{_MARKS}.!#$%&'\u2019+=-]"
_ENCODED_AT = re.compile("%40|&#0*64;|&#[xX]40;|&commat;")
_MAIL = re.compile(
    rf"""((?<!{_LOCAL}){_LOCAL}++|"(?:[^"\\\r\n]|\\.){{1,64}}")\0*[@\uff20\ufe6b]"""
    rf"(?:{_DOMAIN}|\[(?:IPv6:)?[0-9A-Fa-f:.]+\])"
)
# What stands before an address without a space: punctuation, the name of a field, words of scripts without spaces.
_BEFORE_LOCAL = re.compile(
    r"[\W_]*(?:[A-Za-z_]+=)?[\W_]*(?:[\u0e00-\u0eff\u3040-\u9fff\uac00-\ud7af]+(?=[A-Za-z0-9]))?"
)

# A link of Markdown ends at `](`, an attribute of HTML at `&quot;`, and any at the quotation marks of any script.
_IN_URL = (
    '(?:(?!\\]\\()[^\\s\0-\x1f<>"`\u00ab\u00bb\u2018-\u201f\u2026\u2039\u203a\u3001\u3002\u3008-\u3011'
    "\uff08\uff09\uff0c\uff1b])"
)
_URL = re.compile(
    rf"(?:(?<![A-Za-z0-9+.-])[A-Za-z0-9+.-]++:(?:\\?/){{2}}|(?<![\w:/\\.])//(?={_DOMAIN})"
    rf"|(?<![A-Za-z0-9])www[0-9]{{0,2}}\.(?={_LABEL}++\.\w\w)){_IN_URL}++",
    re.IGNORECASE,
)
_BRACKETS = {")": "(", "]": "[", "}": "{"}


def emails(text: str) -> Iterator[tuple[int, int]]:
    """Yield the offsets of e-mail addresses."""
    text = _ENCODED_AT.sub(lambda at: "@".rjust(len(at.group()), "\0"), text)
    for match in _MAIL.finditer(text) if "@" in text or "\uff20" in text or "\ufe6b" in text else ():
        start, end = match.span()
        if text[start] != '"':
            start = _BEFORE_LOCAL.match(text, start, match.end(1)).end()  # type: ignore[union-attr]
        if start < match.end(1):
            yield start, end


def urls(text: str) -> Iterator[tuple[int, int]]:
    """Yield the offsets of web addresses that begin with a scheme, with `//` or with `www.`."""
    for match in _URL.finditer(text) if "/" in text or "www" in text.lower() else ():
        start, end = match.span()
        while text[start] in "0123456789+.-":
            start += 1
        end = _without_surroundings(text, start, end)
        if text[end - 1].isalnum() or text[start:end].rstrip("/\\")[-1:] not in {":", ""}:
            yield start, end


def _without_surroundings(text: str, start: int, end: int) -> int:
    """Return where an address ends without the punctuation after it, and without brackets that opened before it."""
    inside = text[start:end]
    surplus = {close: inside.count(close) - inside.count(opening) for close, opening in _BRACKETS.items()}
    while text[end - 1] != "/" and unicodedata.category(text[end - 1])[0] not in "LMN":
        if surplus.get(text[end - 1], 1) <= 0:
            break
        end -= 1
        if text[end] in surplus:
            surplus[text[end]] -= 1
    return end
