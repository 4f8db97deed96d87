"""IP addresses, as the standard library reads them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

# Candidates only: `ipaddress` decides. A longer run of such characters is no address.
_FOUR = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)", re.ASCII)
_SIX = re.compile(
    r"(?<![\w:.])(?=[0-9A-Fa-f]*:)[0-9A-Fa-f:]{3,39}(?:(?<=:)(?:\d{1,3}\.){3}\d{1,3})?(?![\w:]|\.\w)", re.ASCII
)


def ip_addresses(text: str) -> Iterator[tuple[int, int]]:
    """Yield the offsets of IPv4 and IPv6 addresses. An IPv6 address needs a digit, so that `a::b` is none."""
    for match in _FOUR.finditer(text):
        if _is_address(match.group()):
            yield match.span()
    for match in _SIX.finditer(text) if ":" in text else ():
        start, end = match.span()
        written = match.group()
        if written.endswith(":") and not written.endswith("::"):  # a colon that ends a clause
            written, end = written[:-1], end - 1
        if any(character.isdigit() for character in written) and _is_address(written):
            yield start, end


def _is_address(written: str) -> bool:
    try:
        ipaddress.ip_address(written)
    except ValueError:
        return False
    return True
