"""IP addresses, as the standard library reads them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

# Candidates only: `ipaddress` decides. A longer run of such characters is no address.
_FOUR = re.compile(r"(?<![^\W_])(?<![^\W_]\.)(?:\d{1,3}\.){3}\d{1,3}(?![^\W_]|\.\d)", re.ASCII)
_SIX = re.compile(r"(?<![\w.:])[\w.]*+:[\w.:]++", re.ASCII)
_GROUP = re.compile("[0-9A-Fa-f]{1,4}")
_BEFORE_SIX = re.compile("[_.]*(?::(?!:))?[_.]*")
_MOST_WORDS = 4  # before an address, each with a colon: `host:ip:2001:db8::1`


def ip_addresses(text: str) -> Iterator[tuple[int, int]]:
    """Yield the offsets of IPv4 and IPv6 addresses. An IPv6 address needs a digit, so that `a::b` is none."""
    for match in _FOUR.finditer(text):
        if _is_address(re.sub(r"\b0+(?=\d)", "", match.group())):
            yield match.span()
    for match in _SIX.finditer(text) if ":" in text else ():
        place = _six(text, *match.span())
        if place is not None:
            yield place


def _six(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Return the offsets of the IPv6 address in a run of words and colons, without the words before it."""
    for _ in range(_MOST_WORDS):
        start += len(_BEFORE_SIX.match(text, start, end).group())  # type: ignore[union-attr]
        run = text[start:end]
        for candidate in (run, run.split(".")[0]):
            written = candidate.rstrip("._")
            if written.endswith(":") and not written.endswith("::"):  # a colon that ends a clause
                written = written[:-1].rstrip("._")
            if any(character.isdigit() for character in written) and _is_address(written):
                return start, start + len(written)
        word, colon, _rest = run.partition(":")
        if not colon or (_GROUP.fullmatch(word) and not word.isalpha()):
            return None
        start += len(word)
    return None


def _is_address(written: str) -> bool:
    try:
        ipaddress.ip_address(written)
    except ValueError:
        return False
    return True
