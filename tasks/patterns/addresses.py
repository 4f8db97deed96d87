"""E-mail and web addresses, as linkify-it finds them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

_MAIL, _WEB = "mailto:", ("http:", "https:", "ftp:", "//")


def emails(text: str) -> Iterator[tuple[int, int]]:
    """Yield the offsets of e-mail addresses."""
    for match in _matches(text) if "@" in text else ():
        if match.schema == _MAIL:
            yield match.index, match.last_index


def urls(text: str) -> Iterator[tuple[int, int]]:
    """Yield the offsets of web addresses that begin with a scheme or with `www.`."""
    for match in _matches(text) if "//" in text or "www." in text.lower() else ():
        if match.schema in _WEB or (not match.schema and match.raw.lower().startswith("www.")):
            yield match.index, match.last_index


def _matches(text: str) -> list[Any]:
    return _linkify().match(text) or []


@cache
def _linkify() -> Any:
    from linkify_it import LinkifyIt

    return LinkifyIt()
