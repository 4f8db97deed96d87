"""Plant errors into clean outputs: one kind of error for each check of outputs."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from docmill.tasks.windows.paragraphs import sentences

_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"(?<![\w.,])\d+(?![\w])")
_NAME = re.compile(r"https?://\S+\w|\b(?:\w*[a-z][A-Z]\w*|[A-Za-z]+\d\w*|[A-Z]{3,})\b|(?<=[a-z,] )[A-Z][a-z]{3,}\b")
_SHORTEST_SENTENCE, _SHORTEST_TEXT = 20, 80  # characters


@dataclass(frozen=True, slots=True)
class GoodPair:
    """An input (``given``) and a good output. ``source`` and ``target`` are their languages, ``key`` is an id."""

    given: str
    output: str
    source: str | None = None
    target: str | None = None
    key: str = ""


@dataclass(frozen=True)
class Pool:
    """Material for errors: texts by language, names from outputs, and all lower-case words (``small``).

    A name is a word that never occurs in lower case.
    """

    texts: Mapping[str, Sequence[str]]
    names: Sequence[str]
    small: frozenset[str]


Plant = Callable[[GoodPair, Pool, random.Random], str | None]


def pool(pairs: Sequence[GoodPair]) -> Pool:
    """Return the material of all pairs."""
    texts: dict[str, list[str]] = {}
    for pair in pairs:
        for language, text in ((pair.source, pair.given), (pair.target, pair.output)):
            if language is not None and len(text) > _SHORTEST_TEXT:
                texts.setdefault(language, []).append(text)
    words = (word for pair in pairs for text in (pair.given, pair.output) for word in _WORD.findall(text))
    small = frozenset(word for word in words if word.islower())
    names = {match.group() for pair in pairs for match in _NAME.finditer(pair.output)}
    return Pool(texts, sorted(name for name in names if name.lower() not in small), small)


def planted(pair: GoodPair, plant: Plant, material: Pool, draw: random.Random) -> GoodPair | None:
    """Return the pair with an error in its output, or None if the output has no place for the error."""
    output = plant(pair, material, draw)
    return None if output is None or output == pair.output else replace(pair, output=output)


def loop(pair: GoodPair, _pool: Pool, draw: random.Random) -> str | None:
    """Repeat a word or a phrase three to eight times, a sentence two or three times, or two letters many times."""
    words = pair.output.split(" ")
    if len(words) < 4:
        return None
    kind = draw.choice(["word", "phrase", "sentence", "letters"])
    if kind == "sentence" and (long := [span for span in sentences(pair.output) if span.end - span.start > 40]):
        sentence = draw.choice(long)
        repeats = (" " + pair.output[sentence.start : sentence.end]) * draw.randint(1, 2)
        return pair.output[: sentence.end] + repeats + pair.output[sentence.end :]
    length = 1 if kind == "word" else min(draw.randint(2, 6), len(words) - 1)
    first = draw.randrange(len(words) - length + 1)
    phrase = words[first : first + length]
    if kind == "letters":
        places = [place for place in range(len(words)) if len(words[place]) > 3 and words[place].isalpha()]
        if not places:
            return None
        first = draw.choice(places)
        return " ".join([*words[:first], words[first] + words[first][-2:] * draw.randint(5, 20), *words[first + 1 :]])
    if not any(map(str.isalpha, "".join(phrase))):
        return None
    return " ".join([*words[:first], *phrase * draw.randint(3, 8), *words[first + length :]])


def dropped_sentence(pair: GoodPair, _pool: Pool, draw: random.Random) -> str | None:
    """Leave out a sentence, if the output has at least two."""
    spans = sentences(pair.output)
    long = [span for span in spans if span.end - span.start >= _SHORTEST_SENTENCE]
    if len(spans) < 2 or not long:
        return None
    sentence = draw.choice(long)
    return pair.output[: sentence.start] + pair.output[sentence.end :]


def changed_number(pair: GoodPair, _pool: Pool, draw: random.Random) -> str | None:
    """Change a digit of a number that is in both texts."""
    numbers = [match for match in _NUMBER.finditer(pair.output) if match.group() in pair.given]
    if not numbers:
        return None
    number = draw.choice(numbers)
    place = draw.randrange(number.start(), number.end())
    digits = [digit for digit in "123456789" if digit != pair.output[place]]
    return pair.output[:place] + draw.choice(digits) + pair.output[place + 1 :]


def changed_name(pair: GoodPair, material: Pool, draw: random.Random) -> str | None:
    """Replace a name that is in both texts, everywhere in the output, by a name from another text."""
    matches = [match.group() for match in _NAME.finditer(pair.output)]
    names = [name for name in matches if name.lower() not in material.small and _as_word(name).search(pair.given)]
    if not names:
        return None
    name, other = draw.choice(names), draw.choice(material.names)
    if other.casefold() in pair.given.casefold() or name[0] == other[0]:
        return None
    output = _as_word(name).sub(lambda _: other, pair.output)
    return None if name.casefold() in output.casefold() else output


def _as_word(name: str) -> re.Pattern[str]:
    """Return a pattern of the name, not inside another word."""
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")


def copied(pair: GoodPair, _pool: Pool, draw: random.Random) -> str | None:
    """Replace the output by the input, or its first sentences by those of the input."""
    ends = [sentence.start for sentence in sentences(pair.given)][1:]
    if len(pair.given) < _SHORTEST_TEXT:
        return None
    late = [end for end in ends if end > 0.6 * len(pair.given)]
    if late and draw.random() < 0.5:
        end = draw.choice(late)
        return pair.given[:end] + pair.output[int(end / len(pair.given) * len(pair.output)) :]
    return pair.given


def cut_short(pair: GoodPair, _pool: Pool, draw: random.Random) -> str | None:
    """Cut the output between two words, after a fifth to a half of it."""
    if len(pair.output) < _SHORTEST_TEXT:
        return None
    return pair.output[: int(len(pair.output) * draw.uniform(0.2, 0.5))].rsplit(" ", 1)[0]


def whole_text(pair: GoodPair, _pool: Pool, _draw: random.Random) -> str | None:
    """Append the input to its summary."""
    return f"{pair.output} {pair.given}" if len(pair.given) >= _SHORTEST_TEXT else None


def has_loop(text: str, output: str) -> bool:
    """Return True if some four words in a row occur more than three times in the output, but none do in the input."""
    return _count_most_frequent(output) > 3 >= _count_most_frequent(text)


def _count_most_frequent(text: str) -> int:
    """Return the number of times that the most frequent four words in a row occur."""
    counts: dict[tuple[str, ...], int] = {}
    words = text.lower().split()
    for start in range(len(words) - 3):
        four = tuple(words[start : start + 4])
        counts[four] = counts.get(four, 0) + 1
    return max(counts.values(), default=0)


def says_no_more(pair: GoodPair) -> bool:
    """Return True for a summary whose words with capital letters or digits are all in its text."""
    text = pair.given.casefold()
    names_and_numbers = (
        word.strip(".,;:()\"'") for word in pair.output.split() if word != word.lower() or re.search(r"\d", word)
    )
    return all(part in text for word in names_and_numbers for part in re.split(r"[-/+]", word.casefold()))
