"""Bank accounts and payment cards: candidates by their form, decided by python-stdnum."""

from __future__ import annotations

import re
from collections.abc import Iterator

_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?:[ \u00a0-]?[A-Z0-9]){11,30}", re.IGNORECASE | re.ASCII)
_SHORTEST_IBAN = 15
# The first digits that the payment networks use.
_CARD = re.compile(r"(?<![\w.,-])[2-6][0-9](?:[ \u00a0-]?[0-9]){10,17}(?![\w-]|[.,][0-9])", re.ASCII)
_SEPARATORS = re.compile("[ \u00a0-]")


def ibans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the offsets of IBANs: the country's length and form, and right check digits."""
    from stdnum import iban

    at = 0
    while match := _IBAN.search(text, at):
        start, end = match.span()
        at = start + 4  # where nothing is found, another candidate may begin inside this one
        for last in range(end, start + _SHORTEST_IBAN - 1, -1):
            follows = text[last] if last < len(text) else " "
            if follows.isascii() and follows.isalnum():
                continue
            written = _SEPARATORS.sub("", text[start:last])
            if len(written) < _SHORTEST_IBAN:
                break
            if text[last - 1].isalnum() and iban.is_valid(written):
                yield start, last
                at = last
                break


def cards(text: str) -> Iterator[tuple[int, int]]:
    """Yield the offsets of payment card numbers: 12 to 19 digits, of which the last is a right check digit."""
    from stdnum import luhn

    for match in _CARD.finditer(text):
        if luhn.is_valid(_SEPARATORS.sub("", match.group())):
            yield match.span()
