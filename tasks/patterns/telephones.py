"""Telephone numbers: international ones by their form, national ones as Google's libphonenumber finds them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterator

_MOST_TRIES = 2**31 - 1  # candidates that are no numbers; the library stops after 65,535
_BETWEEN = r"[^\S\r\n]|[().\u00ad\u2010-\u2015\u2212/-]"
# A country code behind + or what is dialled for it, and up to 15 digits (ITU-T E.164), perhaps with a (0) among them.
_INTERNATIONAL = re.compile(
    rf"(?:[+\uff0b]|(?<![0-9])(?<![0-9][.,])(?:00|011(?=[\s.-])))(?:{_BETWEEN}){{0,2}}"
    rf"[1-9](?:(?:{_BETWEEN}){{0,3}}[0-9]){{5,15}}"
)
_EXTENSION = re.compile(r"[ \u00a0]?(?:x|ext\.?)[ \u00a0]?[0-9]{1,6}", re.IGNORECASE)


def numbers(text: str, regions: Collection[str]) -> Iterator[tuple[int, int]]:
    """Yield the offsets of international numbers of possible length, and of valid national ones of these regions."""
    import phonenumbers

    places = [*_international(text)]
    yield from places
    starts = [start for start, _end in places]
    seen: set[tuple[int, int]] = set()
    for region in regions:
        for match in phonenumbers.PhoneNumberMatcher(text, region, max_tries=_MOST_TRIES):
            # libphonenumber takes a bracket before a number for a part of it, also if it closes after the number.
            bracketed = match.raw_string.count("(") > match.raw_string.count(")") and match.raw_string.startswith("(")
            place = (match.start + bracketed, match.end)
            before = bisect_right(starts, match.end) - 1
            is_international = before >= 0 and places[before][1] > match.start
            if place not in seen and not is_international:
                seen.add(place)
                yield place


def _international(text: str) -> Iterator[tuple[int, int]]:
    at = 0
    while match := _INTERNATIONAL.search(text, at):
        start, end = match.span()
        at = start + 1
        while end > start and not (_ends_group(text, end) and _is_possible(text[start:end])):
            end -= 1
        if end > start:
            extension = _EXTENSION.match(text, end)
            at = end = extension.end() if extension else end
            opens_before = text[start:end].count(")") > text[start:end].count("(") and text[start - 1 : start] == "("
            yield start - opens_before, end


def _ends_group(text: str, end: int) -> bool:
    return text[end - 1].isdigit() and not text[end : end + 1].isdigit()


def _is_possible(written: str) -> bool:
    import phonenumbers

    digits = "".join(filter(str.isdigit, written.replace("(0)", "")))
    dialled = 0 if written[0] in "+\uff0b" else 2 if digits.startswith("00") else 3
    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(f"+{digits[dialled:]}"))
    except phonenumbers.NumberParseException:
        return False


def is_region(region: str) -> bool:
    """Return True for a country whose national numbers are known, by its two letters."""
    import phonenumbers

    return region in phonenumbers.SUPPORTED_REGIONS
