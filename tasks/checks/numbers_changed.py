"""`numbers_changed`: numbers, years and units in only one of the two texts.

Numbers are compared by their digits, so 1,000.5 equals 1.000,5. text2num reads number words in the languages that it
knows. It is imported only if digits differ.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from docmill.tasks.checks.base import Check, Context, Finding

FLAG = "numbers_changed"
_SEPARATOR = r"[.,'’\u00a0\u202f ]"
_SEPARATORS = re.compile(_SEPARATOR)
# 10 000, 10.000 or 10,000. Other runs of digits are separate numbers, such as the parts of dates and versions.
_NUMBER = re.compile(rf"\d(?:(?<![\d.,]\d)\d{{0,2}}(?:{_SEPARATOR}\d{{3}})+(?!\d)|\d*)")
# The languages whose number words are read. If the language is unknown, all are.
_READ = ("en", "fr", "es", "pt", "de", "nl", "da", "it")
_SMALL_DIGITS = 1  # other languages have words for them
# Units that languages share. A byte is an octet in French.
_UNIT = re.compile(
    r"(?<![\w.])(?<!\d,)(\d++(?:[.,]\d++)*+)"
    r"[ \u00a0\u202f]?([kKMGT]i?[Bbo]|[kMG]?Hz|km|cm|mm|kg|mg|ms|ns|°[CF]|%)(?!\w)"
)


@dataclass(frozen=True, slots=True)
class _Number:
    """A number as written, with its offsets. ``parts`` are its runs of digits."""

    written: str
    start: int
    end: int
    parts: tuple[str, ...]

    @property
    def digits(self) -> str:
        return _normalize("".join(self.parts))


def find(source_text: str, output: str, context: Context) -> Iterator[Finding]:
    """Yield the numbers that only the output has, and, unless it may be shorter, those that it lacks."""
    before, after = list(_find_numbers(source_text)), list(_find_numbers(output))
    if not before and not after:
        return
    for number in _find_missing(after, before, source_text, context.source):
        yield Finding(FLAG, f"{number.written} is not in the input.", number.start, number.end)
    if not context.shortened:
        for number in _find_missing(before, after, output, context.target):
            evidence = f"{number.written} of the input is not in the output."
            yield Finding(FLAG, evidence, lost=(number.start, number.end))
        if before and after:
            yield from _other_units(source_text, output)


def _find_numbers(text: str) -> Iterator[_Number]:
    for match in _NUMBER.finditer(text):
        yield _Number(match.group(), *match.span(), tuple(_SEPARATORS.split(match.group())))


def _find_missing(wanted: list[_Number], present: list[_Number], text: str, language: str | None) -> list[_Number]:
    """Return the wanted numbers that a text has neither in digits nor in words. ``present`` are its numbers."""
    known = _all(present)
    missing = [number for number in wanted if not _has(known, number)]
    if not missing:
        return []
    if read := [code for code in _READ if language in {code, None}]:
        from text_to_num import alpha2digit

        for code in read:
            known |= _all(_find_numbers(alpha2digit(text, code, threshold=0)))
    else:
        missing = [number for number in missing if len(number.digits) > _SMALL_DIGITS]
    return [number for number in missing if not _has(known, number) and not _is_decade(known, number)]


def _other_units(source_text: str, output: str) -> Iterator[Finding]:
    """Yield the numbers with another unit than in the input."""
    before: dict[str, set[str]] = {}
    for match in _UNIT.finditer(source_text):
        before.setdefault(match.group(1), set()).add(_unit(match.group(2)))
    for match in _UNIT.finditer(output) if before else ():
        units = before.get(match.group(1))
        if units and _unit(match.group(2)) not in units:
            yield Finding(FLAG, f"{match.group()} has another unit in the input: {min(units)}.", *match.span())


def _unit(written: str) -> str:
    is_bytes = written[0] in "kKMGT" and written[-1] in "Bbo"
    return f"{written[0].upper()}B" if is_bytes else written


def _all(numbers: Collection[_Number] | Iterator[_Number]) -> set[str]:
    return {digits for number in numbers for digits in (number.digits, *map(_normalize, number.parts))}


def _has(known: Collection[str], number: _Number) -> bool:
    return number.digits in known or all(_normalize(part) in known for part in number.parts)


def _is_decade(known: Collection[str], number: _Number) -> bool:
    """Return True if a year such as 1990 is known without its century, or the other way round."""
    century, short = 4, 2
    if len(number.digits) == short:
        return any(len(digits) == century and digits.endswith(number.digits) for digits in known)
    return len(number.digits) == century and number.digits[-short:] in known


def _normalize(digits: str) -> str:
    """Return digits as ASCII, without leading zeros."""
    ascii_digits = digits if digits.isascii() else "".join(str(unicodedata.decimal(digit)) for digit in digits)
    return ascii_digits.lstrip("0") or "0"


NUMBERS_CHANGED = Check(FLAG, "numbers, years or units stand in one of the two texts only", find)
