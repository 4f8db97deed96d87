"""`repetition`: a loop of words, characters or sentences that the input does not have.

Greedy decoding of a small model falls into loops (Holtzman et al. 2020, The Curious Case of Neural Text
Degeneration).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import eq

from docmill.tasks.checks.base import Check, Context, Finding, folded, is_unspaced, ngrams, quoted, span

FLAG = "repetition"
# A loop repeats words at least this often in a row. Phrases of at least five words need two times.
_TIMES = 3
_LONG_WORDS = 5
# The length of a phrase, which may occur three times: in words, or in characters of scripts without spaces.
_PHRASE_WORDS = 4
_PHRASE_CHARACTERS = 16
_OFTEN = 3
# A few characters again and again inside a word: "hahahahaha". Digits repeat in round numbers.
_CHARACTERS = re.compile(r"([^\W\d_]\S{0,7}?)\1{4,}|(\d[^\s,.]{1,7}?)\2{3,}")
_FEWER = 4
_LONGER = re.compile(rf"\S{{{_FEWER + 1},}}")
# English doubles almost no words; many other languages do.
_UNDOUBLED = "en"
_DOUBLED = re.compile(r"(?<![\w-])([^\W\d_][\w-]*+(?: [^\W\d_][\w-]*+){0,3}) \1(?![\w-])", re.IGNORECASE)
_MAY_DOUBLE = frozenset({"had", "that", "very", "so", "bye", "ha", "is", "do", "much", "many", "no"})


@dataclass(frozen=True, slots=True)
class _Loop:
    """The words ``first`` to ``last`` repeat the same ``period`` words."""

    first: int
    last: int
    period: int

    @property
    def times(self) -> float:
        return (self.last - self.first + 1) / self.period


def find(source_text: str, output: str, context: Context) -> Iterator[Finding]:
    """Yield the worst loop of words, or the most frequent phrase, or loops of characters and doubled words."""
    words = folded(output)
    repeats = _repeats(words)
    if repeats and (loop := _find_worst(words)) is not None:
        before = _find_worst(folded(source_text)) if _repeats(folded(source_text)) else None
        if before is None or loop.times > before.times:
            start, end = span(output, loop.first, loop.last)
            _, unit_end = span(output, loop.first, loop.first + loop.period - 1)
            evidence = f"{quoted(output[start:unit_end])} stands {int(loop.times)} times in a row."
            yield Finding(FLAG, evidence, start, end)
            return
    if repeats and (finding := _phrase(source_text, output, words)) is not None:
        yield finding
        return
    yield from _characters(source_text, output)
    if repeats and context.target == _UNDOUBLED:
        yield from _find_doubled(source_text, output)


def _repeats(words: Sequence[str]) -> bool:
    """Return False if there can be no loop: no one or two words twice in a row, and no three words twice."""
    if any(map(eq, words, words[1:])) or b"\1\1" in bytes(map(eq, words, words[2:])):
        return True
    threes = list(ngrams(words, 3))
    return len(set(threes)) < len(threes)


def _find_worst(words: Sequence[str]) -> _Loop | None:
    return max(_loops(words), key=lambda loop: (loop.times, loop.period), default=None)


def _loops(words: Sequence[str]) -> Iterator[_Loop]:
    """Yield runs of words that repeat at the same distance: three times, or twice if the unit is long.

    The period of a loop is the distance of three words from their last occurrence. It is constant along the loop.
    """
    last: dict[tuple[str, ...], int] = {}
    period = begun = 0
    for place, three in enumerate(ngrams(words, 3)):
        if three[0] == three[1] == three[2] and not three[0].isdecimal():
            yield _Loop(place, place + 2, 1)
        distance = place - last.get(three, place)
        last[three] = place
        if distance != period:
            yield from _end_loop(begun, place, period)
            period, begun = distance, place
    yield from _end_loop(begun, len(words) - 2, period)


def _end_loop(begun: int, end: int, period: int) -> Iterator[_Loop]:
    """Yield the loop of the words from ``begun`` to before ``end`` with this period, if it is long enough."""
    loop = _Loop(begun - period, end + 1, period or 1)
    least = 2 if period >= _LONG_WORDS else _TIMES
    if period and loop.times >= least:
        yield loop


def _phrase(source_text: str, output: str, words: Sequence[str]) -> Finding | None:
    """Return the most frequent phrase, if no phrase of the input is as frequent."""
    spaced = not words or not is_unspaced(words[len(words) // 2])
    length = _PHRASE_WORDS if spaced else _PHRASE_CHARACTERS
    if len(words) < length + _OFTEN:
        return None
    counts = Counter(ngrams(words, length))
    phrase, count = counts.most_common(1)[0]
    if count <= _OFTEN or count <= max(Counter(ngrams(folded(source_text), length)).values(), default=0):
        return None
    first = next(place for place, other in enumerate(ngrams(words, length)) if other == phrase)
    start, end = span(output, first, first + length - 1)
    return Finding(FLAG, f"{quoted(output[start:end])} occurs {count} times.", start, end)


def _characters(source_text: str, output: str) -> Iterator[Finding]:
    # A word that repeats letters five times has few different letters.
    if not any(
        len(word) - len({*word}) >= _FEWER and _CHARACTERS.search(word) for word in {*_LONGER.findall(output)}
    ):
        return
    for match in _CHARACTERS.finditer(output):
        unit = match.group(1) or match.group(2)
        if match.group() not in source_text and not (unit.isdecimal() and len(set(unit)) == 1):
            times = len(match.group()) // len(unit)
            yield Finding(FLAG, f"{quoted(unit)} stands {times} times in a row inside a word.", *match.span())
            return


def _find_doubled(source_text: str, output: str) -> Iterator[Finding]:
    for match in _DOUBLED.finditer(output):
        unit = match.group(1).lower()
        if unit not in _MAY_DOUBLE and match.group().lower() not in source_text.lower():
            yield Finding(FLAG, f"{quoted(match.group(1))} stands twice in a row.", *match.span())
            return


REPETITION = Check(FLAG, "words, characters or sentences repeat, but not in the input", find)
