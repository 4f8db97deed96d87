"""Patterns of personal data in texts: e-mail and web addresses, hosts, bank accounts, cards, telephone numbers.

A pattern is a function and a line of `PATTERNS`. Every expression reads a text once, from left to right. Expressions
find candidates; `ipaddress`, python-stdnum and Google's libphonenumber decide.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType

from docmill.storage.core.specs import Spec
from docmill.tasks.errors import CannotServe

# Combining characters, which `\w` leaves out, and the marks that join letters.
_MARKS = "\u00ad\u0300-\u036f\u0591-\u05bd\u064b-\u065f\u0900-\u0963\u0966-\u0dff\u0e31-\u0e4e\u200c\u200d"
_LATIN = "A-Za-z\u00c0-\u024f"
_LABEL = rf"[\w{_MARKS}-]"
# A domain ends with any word in one script, since a list of endings would become outdated.
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
# Text that may precede an address without a space: punctuation, a field's name, words of scripts without spaces.
_BEFORE_LOCAL = re.compile(
    r"[\W_]*(?:[A-Za-z_]+=)?[\W_]*(?:[\u0e00-\u0eff\u3040-\u9fff\uac00-\ud7af]+(?=[A-Za-z0-9]))?"
)

# A link in Markdown ends at `](`, an attribute in HTML at `&quot;`, and any address at a quotation mark.
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
        end = _find_address_end(text, start, end)
        if text[end - 1].isalnum() or text[start:end].rstrip("/\\")[-1:] not in {":", ""}:
            yield start, end


def _find_address_end(text: str, start: int, end: int) -> int:
    """Return the end of an address without the punctuation after it, and without a bracket that was opened before."""
    inside = text[start:end]
    surplus = {close: inside.count(close) - inside.count(opening) for close, opening in _BRACKETS.items()}
    while text[end - 1] != "/" and unicodedata.category(text[end - 1])[0] not in "LMN":
        if surplus.get(text[end - 1], 1) <= 0:
            break
        end -= 1
        if text[end] in surplus:
            surplus[text[end]] -= 1
    return end


# Candidates for `ipaddress`. A longer run of such characters is no address.
_FOUR = re.compile(r"(?<![^\W_])(?<![^\W_]\.)(?:\d{1,3}\.){3}\d{1,3}(?![^\W_]|\.\d)", re.ASCII)
_SIX = re.compile(r"(?<![\w.:])[\w.]*+:[\w.:]++", re.ASCII)
_GROUP = re.compile("[0-9A-Fa-f]{1,4}")
_BEFORE_SIX = re.compile("[_.]*(?::(?!:))?[_.]*")
_MOST_WORDS = 4  # before an address, each with a colon: `host:ip:2001:db8::1`


def ip_addresses(text: str) -> Iterator[tuple[int, int]]:
    """Yield the offsets of IPv4 and IPv6 addresses. An IPv6 address must have a digit: `a::b` is none."""
    for match in _FOUR.finditer(text):
        if _is_address(re.sub(r"\b0+(?=\d)", "", match.group())):
            yield match.span()
    for match in _SIX.finditer(text) if ":" in text else ():
        place = _find_ipv6(text, *match.span())
        if place is not None:
            yield place


def _find_ipv6(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Return the offsets of the IPv6 address in a run of words and colons; None if there is none."""
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


# White space, dots and dashes.
_SEPARATOR = r"[\s.\u00ad\u2010-\u2015\u2212-]"
_IBAN = re.compile(
    rf"(?:(?<![A-Za-z0-9])|(?<=IBAN)|(?<=Iban)|(?<=iban))[A-Za-z]{{2}}{_SEPARATOR}?[0-9]{{2}}"
    rf"(?:{_SEPARATOR}{{0,2}}[A-Za-z0-9]){{11,30}}"
)
_SHORTEST_IBAN = 15
_SEPARATORS = re.compile(f"{_SEPARATOR}+")
_DIGITS = re.compile(rf"[0-9]+(?:{_SEPARATOR}{{1,3}}[0-9]+)*")
_DIGIT_GROUP = re.compile("[0-9]+")
_CARD_DIGITS = range(12, 20)
# The current lengths of payment networks' numbers, by the first digits. Beside other numbers, only these are cards.
_USUAL_CARD = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5\d{15}|2[2-7]\d{14}|3[47]\d{13}|3[0689]\d{12}|35\d{14}|6\d{11,18}"
    r"|(?:0604|50\d\d|5[6-8]\d\d)\d{8,15}|1800\d{11}|81\d{14}"
)
_LEAST_IN_GROUP = 4


def ibans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the offsets of IBANs with their country's form and right check digits."""
    from stdnum import iban

    at = 0
    while match := _IBAN.search(text, at):
        start, end = match.span()
        at = start + 2  # if this is no IBAN, another candidate may begin inside
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
    """Yield the offsets of payment card numbers: 12 to 19 digits with a right check digit."""
    for run in _DIGITS.finditer(text):
        if run.end() - run.start() >= _CARD_DIGITS.start:
            yield from _cards_among(text, [group.span() for group in _DIGIT_GROUP.finditer(text, *run.span())])


def _cards_among(text: str, groups: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the cards among groups of digits, the longest card at each place."""
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
    """Return True for groups of digits as in a card, unless dots join them to other groups."""
    if any(end - start < _LEAST_IN_GROUP for start, end in groups[first:last]):
        return False
    start, end = groups[first][0], groups[last][1]
    before = first > 0 and text[groups[first - 1][1] : start] == "."
    after = last + 1 < len(groups) and text[end : groups[last + 1][0]] == "."
    return not (before or after)


_MOST_TRIES = 2**31 - 1  # candidates that are no numbers; the library's default is 65,535
_BETWEEN = r"[^\S\r\n]|[().\u00ad\u2010-\u2015\u2212/-]"
# A + or a dialled prefix, a country code, and up to 15 digits (ITU-T E.164), perhaps with a (0) among them.
_INTERNATIONAL = re.compile(
    rf"(?:[+\uff0b]|(?<![0-9])(?<![0-9][.,])(?:00|011(?=[\s.-])))(?:{_BETWEEN}){{0,2}}"
    rf"[1-9](?:(?:{_BETWEEN}){{0,3}}[0-9]){{5,15}}"
)
_EXTENSION = re.compile(r"[ \u00a0]?(?:x|ext\.?)[ \u00a0]?[0-9]{1,6}", re.IGNORECASE)


def phones(text: str, regions: Collection[str]) -> Iterator[tuple[int, int]]:
    """Yield the offsets of international numbers of possible length, and of valid national numbers of the regions."""
    import phonenumbers

    places = [*_find_international(text)]
    yield from places
    starts = [start for start, _end in places]
    seen: set[tuple[int, int]] = set()
    for region in regions:
        for match in phonenumbers.PhoneNumberMatcher(text, region, max_tries=_MOST_TRIES):
            # libphonenumber includes a bracket before a number, even if it closes after the number.
            bracketed = match.raw_string.count("(") > match.raw_string.count(")") and match.raw_string.startswith("(")
            place = (match.start + bracketed, match.end)
            before = bisect_right(starts, match.end) - 1
            is_international = before >= 0 and places[before][1] > match.start
            if place not in seen and not is_international:
                seen.add(place)
                yield place


def _find_international(text: str) -> Iterator[tuple[int, int]]:
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
    """Return True for the two letters of a country whose national numbers libphonenumber knows."""
    import phonenumbers

    return region in phonenumbers.SUPPORTED_REGIONS


# A part of the specs that use patterns. Raise it when the patterns find something else.
VERSION = 3
_ESCAPED = re.compile(r"\\[nrt]")  # an escaped line end in JSON or code is no letter beside an address

# The functions from a text and the regions of national telephone numbers to the places of findings.
PATTERNS: Mapping[str, Callable[[str, Collection[str]], Iterator[tuple[int, int]]]] = MappingProxyType(
    {
        "email": lambda text, _: emails(text),
        "url": lambda text, _: urls(text),
        "ip": lambda text, _: ip_addresses(text),
        "iban": lambda text, _: ibans(text),
        "card": lambda text, _: cards(text),
        "phone": phones,
    }
)


def find(text: str, names: Collection[str], regions: Collection[str] = ()) -> list[tuple[str, int, int]]:
    """Return the findings of these patterns in a text, each (label, start, end), in characters.

    A label is a pattern's name in upper case.
    """
    text = _ESCAPED.sub("\r\n", text)
    return [
        (name.upper(), start, end)
        for name, places in PATTERNS.items()
        if name in names
        for start, end in places(text, regions)
    ]


def require_for(spec: Spec) -> None:
    """Raise CannotServe if a spec needs another version of the patterns."""
    if spec.params.get("patterns_version", VERSION) != VERSION:
        raise CannotServe(
            f"This release has version {VERSION} of the patterns, not {spec.params['patterns_version']}."
        )
