"""Errors planted into clean outputs, one kind of error for each check of outputs."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from docmill.tasks.windows.paragraphs import sentences

_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"(?<![\w.,])\d+(?![\w])")
_NAME = re.compile(r"https?://\S+\w|\b(?:\w*[a-z][A-Z]\w*|[A-Za-z]+\d\w*|[A-Z]{3,})\b|(?<=[a-z,] )[A-Z][a-z]{3,}\b")
_LEAST_SENTENCE, _LEAST_CUT = 20, 80


@dataclass(frozen=True, slots=True)
class GoodPair:
    """An input with a good output; ``source`` and ``target`` are codes of languages, ``key`` names its line."""

    given: str
    output: str
    source: str | None = None
    target: str | None = None
    key: str = ""


@dataclass(frozen=True)
class Pool:
    """Material for errors: texts by language, and names that stand in outputs and never in small letters."""

    texts: Mapping[str, Sequence[str]]
    names: Sequence[str]
    small: frozenset[str]


Plant = Callable[[GoodPair, Pool, random.Random], str | None]


def pool(pairs: Sequence[GoodPair]) -> Pool:
    """Return material from all pairs."""
    texts: dict[str, list[str]] = {}
    for pair in pairs:
        for language, text in ((pair.source, pair.given), (pair.target, pair.output)):
            if language is not None and len(text) > _LEAST_CUT:
                texts.setdefault(language, []).append(text)
    words = (word for pair in pairs for text in (pair.given, pair.output) for word in _WORD.findall(text))
    small = frozenset(word for word in words if word.islower())
    names = {match.group() for pair in pairs for match in _NAME.finditer(pair.output)}
    return Pool(texts, sorted(name for name in names if name.lower() not in small), small)


def planted(pair: GoodPair, plant: Plant, material: Pool, draw: random.Random) -> GoodPair | None:
    """Return the pair with an error in its output; None if there is no place for one."""
    output = plant(pair, material, draw)
    return None if output is None or output == pair.output else replace(pair, output=output)


def loop(pair: GoodPair, _pool: Pool, draw: random.Random) -> str | None:
    """A word or a phrase three to eight times, a sentence two or three times, or a few letters over and over."""
    words = pair.output.split(" ")
    if len(words) < 4:
        return None
    kind = draw.choice(["word", "phrase", "sentence", "letters"])
    if kind == "sentence" and (found := [one for one in sentences(pair.output) if one.end - one.start > 40]):
        one = draw.choice(found)
        again = (" " + pair.output[one.start : one.end]) * draw.randint(1, 2)
        return pair.output[: one.end] + again + pair.output[one.end :]
    length = 1 if kind == "word" else min(draw.randint(2, 6), len(words) - 1)
    first = draw.randrange(len(words) - length + 1)
    unit = words[first : first + length]
    if kind == "letters":
        letters = [place for place in range(len(words)) if len(words[place]) > 3 and words[place].isalpha()]
        if not letters:
            return None
        first = draw.choice(letters)
        return " ".join([*words[:first], words[first] + words[first][-2:] * draw.randint(5, 20), *words[first + 1 :]])
    if not any(map(str.isalpha, "".join(unit))):
        return None
    return " ".join([*words[:first], *unit * draw.randint(3, 8), *words[first + length :]])


def dropped_sentence(pair: GoodPair, _pool: Pool, draw: random.Random) -> str | None:
    """One of at least two sentences is left out."""
    found = sentences(pair.output)
    long = [one for one in found if one.end - one.start >= _LEAST_SENTENCE]
    if len(found) < 2 or not long:
        return None
    one = draw.choice(long)
    return pair.output[: one.start] + pair.output[one.end :]


def changed_number(pair: GoodPair, _pool: Pool, draw: random.Random) -> str | None:
    """One digit of a number that both texts have is another one."""
    found = [one for one in _NUMBER.finditer(pair.output) if one.group() in pair.given]
    if not found:
        return None
    number = draw.choice(found)
    place = draw.randrange(number.start(), number.end())
    digits = [digit for digit in "123456789" if digit != pair.output[place]]
    return pair.output[:place] + draw.choice(digits) + pair.output[place + 1 :]


def changed_name(pair: GoodPair, material: Pool, draw: random.Random) -> str | None:
    """A name that both texts have is a name of another text, wherever it stands."""
    found = [one.group() for one in _NAME.finditer(pair.output) if one.group().lower() not in material.small]
    found = [name for name in found if _whole(name).search(pair.given)]
    if not found:
        return None
    name, other = draw.choice(found), draw.choice(material.names)
    if other.casefold() in pair.given.casefold() or name[0] == other[0]:
        return None
    output = _whole(name).sub(lambda _: other, pair.output)
    return None if name.casefold() in output.casefold() else output


def _whole(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")


def copied(pair: GoodPair, _pool: Pool, draw: random.Random) -> str | None:
    """The output is the input, or its first sentences are."""
    ends = [one.start for one in sentences(pair.given)][1:]
    if len(pair.given) < _LEAST_CUT:
        return None
    late = [end for end in ends if end > 0.6 * len(pair.given)]
    if late and draw.random() < 0.5:
        end = draw.choice(late)
        return pair.given[:end] + pair.output[int(end / len(pair.given) * len(pair.output)) :]
    return pair.given


def cut_short(pair: GoodPair, _pool: Pool, draw: random.Random) -> str | None:
    """The output ends between two words, after a fifth to a half of it."""
    if len(pair.output) < _LEAST_CUT:
        return None
    return pair.output[: int(len(pair.output) * draw.uniform(0.2, 0.5))].rsplit(" ", 1)[0]


def whole_text(pair: GoodPair, _pool: Pool, _draw: random.Random) -> str | None:
    """A summary is followed by the text that it should shorten."""
    return f"{pair.output} {pair.given}" if len(pair.given) >= _LEAST_CUT else None


def has_loop(given: str, output: str) -> bool:
    """Return True if some four words occur more than three times in the output, and no four do so in the input."""
    return _most_often(output) > 3 >= _most_often(given)


def _most_often(text: str) -> int:
    counts: dict[tuple[str, ...], int] = {}
    words = text.lower().split()
    for start in range(len(words) - 3):
        four = tuple(words[start : start + 4])
        counts[four] = counts.get(four, 0) + 1
    return max(counts.values(), default=0)


def says_no_more(pair: GoodPair) -> bool:
    """Return True for a summary whose words with capital letters or digits all stand in its text."""
    text = pair.given.casefold()
    telling = (
        word.strip(".,;:()\"'") for word in pair.output.split() if word != word.lower() or re.search(r"\d", word)
    )
    return all(part in text for word in telling for part in re.split(r"[-/+]", word.casefold()))
