"""`wrong_language`: an output that is not in the requested language, or not in its input's.

The check uses the detector of `--from auto`. If its library is not installed, the check finds nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from docmill.tasks import languages
from docmill.tasks.checks.base import Check, Context, Finding, quoted
from docmill.tasks.languages import Guess

FLAG = "wrong_language"
# Only ordinary words are guessed from: names, numbers and code are the same in every language.
_CODE = re.compile(r"[\d_/@\\<>{}=]|\w[.]\w|[^\W\d_][A-Z]")
# The beginning of a text shows its language.
_READ_CHARS = 400
# In long texts, a sample of words is tested first, since most outputs are in the right language.
_SAMPLE_WORDS = 20
_LEAST_LETTERS = 40
_LEAST_LETTERS_UNSPACED = 12
_SURE = 0.8
# The wanted language is excluded if its guess is below this probability.
_EXCLUDED = 0.05


def find(source_text: str, output: str, context: Context) -> Iterator[Finding]:
    """Yield a finding if the output is surely in a wrong language."""
    if not languages.EXTRA.is_installed or (context.target is None and not context.same_language):
        return
    sampled = _guess_from_sample(output)
    if sampled is not None and languages.same_language(
        sampled, context.target or _guess_from_sample(source_text) or ""
    ):
        return
    guesses = _guesses(output)
    if (detected := _language(guesses)) is None:
        return
    if (wanted := context.target or _language(_guesses(source_text))) is None:
        return
    if any(part >= _EXCLUDED and languages.same_language(language, wanted) for language, part in guesses):
        return
    detected, name = (languages.NAMES.get(code, code) for code in (detected, wanted))
    yield Finding(FLAG, f"The output looks {detected} ({guesses[0][1]:.0%}), not {name}: {quoted(output)}")


def _guess_from_sample(text: str) -> str | None:
    """Return the language of a sample of a text's words, if it is sure; None for a short text."""
    words = text[:_READ_CHARS].split()
    step = len(words) // _SAMPLE_WORDS
    return _language(_guesses_of(words[::step], 1)) if step > 1 else None


def _guesses(text: str) -> list[Guess]:
    return _guesses_of(text[:_READ_CHARS].split())


def _guesses_of(words: list[str], most: int = languages.MOST_GUESSES) -> list[Guess]:
    ordinary = " ".join(words)
    if _CODE.search(ordinary):  # no pattern of code matches a space
        ordinary = " ".join(word for word in words if not _CODE.search(word))
    least = _LEAST_LETTERS if ordinary.isascii() or " " in ordinary else _LEAST_LETTERS_UNSPACED
    return languages.guesses(ordinary, most) if sum(map(str.isalpha, ordinary)) >= least else []


def _language(guesses: list[Guess]) -> str | None:
    """Return the first language, if it is sure."""
    return guesses[0][0] if guesses and guesses[0][1] >= _SURE else None


WRONG_LANGUAGE = Check(FLAG, "the output is in another language than was asked for", find)
