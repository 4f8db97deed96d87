"""Telephone numbers, as Google's libphonenumber finds them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

# A number has at least this many digits; a text with fewer needs no search.
_FEWEST_DIGITS = 5
_MOST_TRIES = 2**31 - 1  # candidates that are no numbers; the library stops after 65,535


def numbers(text: str, regions: Collection[str]) -> Iterator[tuple[int, int]]:
    """Yield the offsets of valid numbers: international ones, and national ones of these regions (`DE`)."""
    import phonenumbers

    if sum(map(str.isdigit, text)) < _FEWEST_DIGITS:
        return
    seen: set[tuple[int, int]] = set()
    for region in regions or (None,):
        for match in phonenumbers.PhoneNumberMatcher(text, region, max_tries=_MOST_TRIES):
            # libphonenumber takes a bracket before a number for a part of it, also if it closes after the number.
            bracketed = match.raw_string.count("(") > match.raw_string.count(")") and match.raw_string.startswith("(")
            place = (match.start + bracketed, match.end)
            if place not in seen:
                seen.add(place)
                yield place


def is_region(region: str) -> bool:
    """Return True for a country whose national numbers are known, by its two letters."""
    import phonenumbers

    return region in phonenumbers.SUPPORTED_REGIONS
