"""Bank accounts and payment cards: candidates by their form, decided by python-stdnum."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Spaces of any kind, ends of lines, dots and dashes.
_SEPARATOR = r"[\s.\u00ad\u2010-\u2015\u2212-]"
_IBAN = re.compile(
    rf"(?:(?<![A-Za-z0-9])|(?<=IBAN)|(?<=Iban)|(?<=iban))[A-Za-z]{{2}}{_SEPARATOR}?[0-9]{{2}}"
    rf"(?:{_SEPARATOR}{{0,2}}[A-Za-z0-9]){{11,30}}"
)
_SHORTEST_IBAN = 15
_SEPARATORS = re.compile(f"{_SEPARATOR}+")
_DIGITS = re.compile(rf"[0-9]+(?:{_SEPARATOR}{{1,3}}[0-9]+)*")
_GROUP = re.compile("[0-9]+")
_CARD_DIGITS = range(12, 20)
# The lengths that payment networks use now, by the first digits. Among other numbers only these are cards.
_USUAL_CARD = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5\d{15}|2[2-7]\d{14}|3[47]\d{13}|3[0689]\d{12}|35\d{14}|6\d{11,18}"
    r"|(?:0604|50\d\d|5[6-8]\d\d)\d{8,15}|1800\d{11}|81\d{14}"
)
_LEAST_IN_GROUP = 4


def ibans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the offsets of IBANs: the country's length and form, and right check digits."""
    from stdnum import iban

    at = 0
    while match := _IBAN.search(text, at):
        start, end = match.span()
        at = start + 2  # where nothing is found, another candidate may begin inside this one
        for last in range(end, start + _SHORTEST_IBAN - 1, -1):
            if not text[last - 1].isalnum() or text[last : last + 1].isdigit():
                continue
            written = _SEPARATORS.sub("", text[start:last]).upper()
            if len(written) < _SHORTEST_IBAN:
                break
            if _has_check_digits(written) and iban.is_valid(written, check_country=False):
                yield start, last
                at = last
                break


def _has_check_digits(iban: str) -> bool:
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1


def cards(text: str) -> Iterator[tuple[int, int]]:
    """Yield the offsets of payment card numbers: 12 to 19 digits, of which the last is a right check digit."""
    for run in _DIGITS.finditer(text):
        if run.end() - run.start() >= _CARD_DIGITS.start:
            yield from _cards_among(text, [group.span() for group in _GROUP.finditer(text, *run.span())])


def _cards_among(text: str, groups: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the cards among groups of digits, of which each place has the longest that begins there."""
    from stdnum import luhn

    first = 0
    while first < len(groups):
        digits, ends = "", []
        for last in range(first, len(groups)):
            digits += text[slice(*groups[last])]
            if len(digits) not in range(_CARD_DIGITS.stop):
                break
            is_whole = first == 0 and last == len(groups) - 1
            if is_whole or (_USUAL_CARD.fullmatch(digits) and _stands_alone(text, groups, first, last)):
                ends.append((last, digits))
        for last, written in reversed(ends):
            if (
                (written[0] in "23456" or _USUAL_CARD.fullmatch(written))
                and len(written) in _CARD_DIGITS
                and luhn.is_valid(written)
            ):
                yield groups[first][0], groups[last][1]
                first = last
                break
        first += 1


def _stands_alone(text: str, groups: list[tuple[int, int]], first: int, last: int) -> bool:
    """Return True for groups as cards have them, of which no other group is the rest of a number with dots."""
    if any(end - start < _LEAST_IN_GROUP for start, end in groups[first:last]):
        return False
    start, end = groups[first][0], groups[last][1]
    before = first > 0 and text[groups[first - 1][1] : start] == "."
    after = last + 1 < len(groups) and text[end : groups[last + 1][0]] == "."
    return not (before or after)
