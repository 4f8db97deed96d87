"""Patterns of personal data in texts, such as e-mail addresses and bank accounts: one module and one line each."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from storage.core.specs import Spec
from tasks.errors import CannotServe
from tasks.patterns import addresses, hosts, numbers, telephones

_ESCAPED = re.compile(r"\\[nrt]")  # the end of a line in JSON or code, which is no letter beside an address
# Part of the specs that use patterns: another number when they find something else.
VERSION = 3


@dataclass(frozen=True, slots=True)
class Found:
    """A part of a text with a label; ``start`` and ``end`` are offsets in characters."""

    label: str
    start: int
    end: int


@dataclass(frozen=True)
class Pattern:
    """A pattern by its name, which in upper case is the label of its findings.

    ``places`` yields the offsets of the findings in a text, given the regions whose national telephone numbers count.
    """

    name: str
    finds: str
    places: Callable[[str, Collection[str]], Iterator[tuple[int, int]]]

    @property
    def label(self) -> str:
        return self.name.upper()


_ALL = (
    Pattern("email", "e-mail addresses", lambda text, _: addresses.emails(text)),
    Pattern("url", "web addresses with a scheme or `www.`", lambda text, _: addresses.urls(text)),
    Pattern("ip", "IPv4 and IPv6 addresses", lambda text, _: hosts.ip_addresses(text)),
    Pattern(
        "iban", "bank accounts with the length and check digits of their country", lambda text, _: numbers.ibans(text)
    ),
    Pattern("card", "payment card numbers with a right check digit", lambda text, _: numbers.cards(text)),
    Pattern("phone", "international telephone numbers, and valid national ones of a region", telephones.numbers),
)
PATTERNS: Mapping[str, Pattern] = MappingProxyType({one.name: one for one in _ALL})


def found(text: str, names: Collection[str], regions: Collection[str] = ()) -> list[Found]:
    """Return what these patterns find in a text, pattern by pattern."""
    text = _ESCAPED.sub("\r\n", text)
    return [
        Found(pattern.label, start, end)
        for name, pattern in PATTERNS.items()
        if name in names
        for start, end in pattern.places(text, regions)
    ]


def require_for(spec: Spec) -> None:
    """Raise CannotServe where a spec wants patterns of another release."""
    if spec.params.get("patterns_version", VERSION) != VERSION:
        raise CannotServe(
            f"This release finds personal data by patterns {VERSION}, not by {spec.params['patterns_version']}."
        )
