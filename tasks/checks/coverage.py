"""Checks that an output covers its input: `missing_sentences`, `length_ratio` and `copied_input`.

`missing_sentences` aligns the sentences of both texts by their order and lengths (Gale and Church 1993, A Program for
Aligning Sentences in Bilingual Corpora), and by the beginnings of shared words, such as names.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from docmill.tasks.checks.base import (
    Check,
    Context,
    Finding,
    folded,
    has_words,
    letters,
    ngrams,
    quoted,
    span,
    words,
)
from docmill.tasks.windows.paragraphs import sentences

MISSING = "missing_sentences"
# Costs are negative logarithms of probabilities. Gale and Church have this variance of lengths per letter.
_VARIANCE = 6.8
_LOST, _MERGED = 2.8, 2.3
# The number of sentences of the input and of the output in a pair of groups, and the pair's cost.
_BEADS = (
    *((1, 1, 0.0), (1, 0, _LOST), (0, 1, _LOST), (2, 1, _MERGED), (1, 2, _MERGED)),
    *((3, 1, 2 * _MERGED), (1, 3, 2 * _MERGED), (2, 2, 2 * _MERGED)),
)
_LARGEST = 3
# The beads that fit, by the number of sentences that are left on each side.
_FITTING = [
    [[bead for bead in _BEADS if bead[0] <= row and bead[1] <= column] for column in range(_LARGEST + 1)]
    for row in range(_LARGEST + 1)
]
_LEAST_PROBABILITY = 1e-12
_MOST_UNLIKELY = -math.log(_LEAST_PROBABILITY)
_ROUNDING = 1e-9  # of costs, which are sums of a few numbers below 100
# The factor of the expected length: two merged sentences are as long as both.
_LONGER = 1.1
# Words are shared if they begin with the same letters. Unrelated sentences share some words by chance.
_BEGINNING = 4
_SHARED, _BY_CHANCE = 8.0, 0.12
# A sentence is not missing if the output has this share of its own words.
_SAID = 0.3
_LEAST_LETTERS_OF_SENTENCE = 15
# Below this share of the expected length, an output with the same number of sentences may lack one.
_SHORT = 0.94
# The work grows with the product of the numbers of sentences.
_MOST_SENTENCES = 100


@dataclass(frozen=True, slots=True)
class _Sentence:
    """A sentence with its number of letters and the beginnings of its longer words."""

    text: str
    letters: float
    beginnings: frozenset[str]

    @classmethod
    def of(cls, text: str) -> _Sentence:
        long = (word[:_BEGINNING] for word in folded(text) if len(word) >= _BEGINNING or word.isdigit())
        return cls(text, letters(text), frozenset(long))


def find_missing(source_text: str, output: str, context: Context) -> Iterator[Finding]:
    """Yield the sentences without a counterpart, if the output has fewer sentences than the input.

    A translation may also split a sentence, so a short output with the same number of sentences is searched, too.
    """
    written = _sentences(source_text)
    if not 1 < len(written) <= _MOST_SENTENCES:
        return
    kept = _sentences(output)
    ratio = expected_ratio(context)
    if not 0 < len(kept) <= len(written):
        return
    if len(kept) == len(written) and letters(output) >= _SHORT * ratio * letters(source_text):
        return
    before = [_Sentence.of(source_text[start:end]) for start, end in written]
    after = [_Sentence.of(output[start:end]) for start, end in kept]
    times_said = Counter(beginning for sentence in before for beginning in sentence.beginnings)
    kept_beginnings = frozenset().union(*(sentence.beginnings for sentence in after))
    for place in _find_lost(before, after, _LONGER * ratio):
        sentence = before[place]
        own = {beginning for beginning in sentence.beginnings if times_said[beginning] == 1}
        if sentence.letters >= _LEAST_LETTERS_OF_SENTENCE and len(own & kept_beginnings) < max(1, _SAID * len(own)):
            evidence = f"Sentence {place + 1} of the input is not in the output: {quoted(sentence.text)}"
            yield Finding(MISSING, evidence, lost=written[place])


def _sentences(text: str) -> list[tuple[int, int]]:
    """Return the places of a text's sentences that have words."""
    places = ((sentence.start, sentence.end) for sentence in sentences(text))
    return [(start, end) for start, end in places if has_words(text[start:end])]


@dataclass(frozen=True, slots=True)
class _Groups:
    """Groups of up to three sentences.

    `letters[n][end]` and `beginnings[n][end]` are those of the `n` sentences before sentence number `end`, or of all
    sentences before it if there are fewer. Beginnings are sets of bits.
    """

    letters: Sequence[Sequence[float]]
    beginnings: Sequence[Sequence[int]]

    @classmethod
    def of(cls, group: Sequence[_Sentence], bits: Mapping[str, int]) -> _Groups:
        lengths = [sentence.letters for sentence in group]
        sets = [sum(bits[each] for each in sentence.beginnings) for sentence in group]
        ends = range(len(group) + 1)
        return cls(
            [[sum(lengths[max(0, end - n) : end]) for end in ends] for n in range(_LARGEST + 1)],
            [[reduce(or_, sets[max(0, end - n) : end], 0) for end in ends] for n in range(_LARGEST + 1)],
        )


def _find_lost(before: Sequence[_Sentence], after: Sequence[_Sentence], ratio: float) -> list[int]:
    """Return the numbers of the sentences without a counterpart in the cheapest alignment.

    `half` is half of the squared deviation of a length from its expectation, in units of the standard deviation. It
    is a lower bound of the negative logarithm of the probability, since erfc(x) <= exp(-x²).
    """
    costs = [[math.inf] * (len(after) + 1) for _ in range(len(before) + 1)]
    beads: dict[tuple[int, int], tuple[int, int]] = {}
    costs[0][0] = 0.0
    words = frozenset().union(*(sentence.beginnings for sentence in (*before, *after)))
    bits = {word: 1 << number for number, word in enumerate(words)}
    ours, theirs = _Groups.of(before, bits), _Groups.of(after, bits)
    for row in range(len(before) + 1):
        for column in range(len(after) + 1):
            least = costs[row][column]
            for taken, matched, prior in _FITTING[min(row, _LARGEST)][min(column, _LARGEST)]:
                cost = costs[row - taken][column - matched] + prior
                if cost - _SHARED >= least:
                    continue
                if taken and matched:
                    expected, length = ratio * ours.letters[taken][row], theirs.letters[matched][column]
                    half = (length - expected) ** 2 / (_VARIANCE * (expected + length))
                    bound = cost + min(half, _MOST_UNLIKELY) - _ROUNDING
                    if bound - _SHARED > least:  # too expensive even if all words are shared
                        continue
                    shared = _compute_saving(ours.beginnings[taken][row], theirs.beginnings[matched][column])
                    if bound - shared > least:
                        continue
                    cost += -math.log(max(math.erfc(math.sqrt(half)), _LEAST_PROBABILITY)) - shared
                if cost < least:
                    least = costs[row][column] = cost
                    beads[row, column] = (taken, matched)
    lost: list[int] = []
    row, column = len(before), len(after)
    while row or column:
        taken, matched = beads[row, column]
        row, column = row - taken, column - matched
        if not matched:
            lost.append(row)
    return lost[::-1]


def _compute_saving(ours: int, theirs: int) -> float:
    """Return the saving of cost by the shared words of two groups of sentences; below 0 if few words are shared."""
    least = min(ours.bit_count(), theirs.bit_count())
    return _SHARED * ((ours & theirs).bit_count() / least - _BY_CHANCE) if least else 0.0


MISSING_SENTENCES = Check(MISSING, "sentences of the input are not in the translation", find_missing)
# The length of a text in each language, as a multiple of its length in English.
_LENGTHS = {"en": 1.0, "fr": 1.15, "es": 1.12, "it": 1.12, "de": 1.12, "pt": 1.1, "nl": 1.08, "ru": 1.08, "pl": 1.08}
_OTHER = 1.05


def expected_ratio(context: Context) -> float:
    """Return the expected length of a translation in letters, as a multiple of its input's."""
    source, target = (_LENGTHS.get(code or "", _OTHER) for code in (context.source, context.target))
    return target / source


RATIO = "length_ratio"
# The shortest texts vary most: the bounds of the ratio widen with the inverse of the length.
_LEAST, _MOST = 0.64, 1.8
_LEAST_LETTERS = 20
_WIDER = 25.0
_LEAST_SUMMARIZED = 60


def find_ratio(source_text: str, output: str, context: Context) -> Iterator[Finding]:
    """Yield a finding if the ratio of the lengths in letters is outside its bounds."""
    before, after = letters(source_text), letters(output)
    if before < _LEAST_LETTERS or not after:
        return
    ratio = after / before
    expected = expected_ratio(context)
    if context.shortened:
        if ratio > 1 and before >= _LEAST_SUMMARIZED:
            yield Finding(RATIO, f"The summary is {ratio:.1f} times as long as its text.")
    elif ratio < expected * _LEAST / (1 + _WIDER / before):
        yield Finding(RATIO, f"The output has {ratio:.0%} of the length of the input.")
    elif ratio > expected * _MOST * (1 + _WIDER / before):
        yield Finding(RATIO, f"The output is {ratio:.1f} times as long as the input.")


LENGTH_RATIO = Check(RATIO, "a translation is far longer or shorter than its input, a summary longer", find_ratio)
COPIED = "copied_input"
_RUN_WORDS = 4
# Names and code may be copied, so only words without capital letters, digits and underscores count.
_LEAST_ORDINARY = 4
_CODE = re.compile(r"[\d_]")
_SHARE = 0.5
# A summary may quote its text, but not be all of it.
_SHARE_OF_SUMMARY, _SHARE_OF_SUMMARIZED = 0.9, 0.9
_LEAST_SUMMARIZED_WORDS = 12


def find_copies(source_text: str, output: str, context: Context) -> Iterator[Finding]:
    """Yield the longest copied run if half of a translation is copied, or if a summary is its whole input."""
    ordinary, copied, longest = _count_copied(folded(source_text), folded(output), words(output))
    share = copied / max(1, ordinary)
    if context.shortened:
        lengths = len(words(source_text)), len(words(output))
        whole = lengths[0] >= _LEAST_SUMMARIZED_WORDS and lengths[1] >= _SHARE_OF_SUMMARIZED * lengths[0]
        if not whole or share < _SHARE_OF_SUMMARY:
            return
    elif share < _SHARE or copied < _LEAST_ORDINARY:
        return
    start, end = span(output, *longest)
    evidence = f"{share:.0%} of its ordinary words are copied from the input: {quoted(output[start:end])}"
    yield Finding(COPIED, evidence, start, end)


def _count_copied(
    source_words: Sequence[str], output: Sequence[str], written: Sequence[str]
) -> tuple[int, int, tuple[int, int]]:
    """Return the number of an output's ordinary words, the number of those in copied runs, and the longest run."""
    runs = set(ngrams(source_words, _RUN_WORDS))
    if runs.isdisjoint(ngrams(output, _RUN_WORDS)):
        return 0, 0, (0, 0)
    covered = bytearray(len(output))
    for place, run in enumerate(ngrams(output, _RUN_WORDS)):
        if run in runs:
            covered[place : place + _RUN_WORDS] = b"\1" * _RUN_WORDS
    ordinary = [word == two and not _CODE.search(word) for word, two in zip(written, output, strict=True)]
    copied = sum(1 for is_covered, is_ordinary in zip(covered, ordinary, strict=True) if is_covered and is_ordinary)
    longest = max(re.finditer(b"\1+", covered), key=lambda run: run.end() - run.start())
    return sum(ordinary), copied, (longest.start(), longest.end() - 1)


COPIED_INPUT = Check(COPIED, "the output is the input again, or half of its words are copied from it", find_copies)
