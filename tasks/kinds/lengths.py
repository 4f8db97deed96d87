"""Lengths of summaries: a number of words, or a name for one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from pydantic_core import PydanticCustomError

from tasks.kinds.validation import shown

LENGTHS: Mapping[str, int] = MappingProxyType({"short": 30, "medium": 75, "long": 150})
LENGTH_SCHEMA = {"anyOf": [{"enum": [*LENGTHS]}, {"type": "integer", "minimum": 1}]}
# An English word has about 1.3 tokens: the limits leave room for other languages, and for shorter outputs.
_MOST_TOKENS_PER_WORD = 2
_WORDS_PER_LEAST_TOKEN = 2
# Characters of scripts without spaces: of Thai, Lao, Myanmar and Khmer, of kana and of Han.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_PAIR = re.compile(f"[{_UNSPACED}]{{1,2}}")


def words_of_length(value: object) -> int | None:
    """Return the words that a length stands for. Raises PydanticCustomError, which continues a sentence."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str) and value in LENGTHS:
        return LENGTHS[value]
    if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
        return int(value)
    sentence = f"must be {', '.join(LENGTHS)} or a number of words, not {shown(value)}"
    raise PydanticCustomError("value", "{sentence}", {"sentence": sentence})


def token_limits(words: int) -> dict[str, int]:
    """Return the parameters of specs that limit an output of so many words."""
    return {
        "min_new_tokens": words // _WORDS_PER_LEAST_TOKEN,
        "max_new_tokens": words * _MOST_TOKENS_PER_WORD,
    }


def count_words(text: str) -> int:
    """Return the number of words in a text. Two characters of a script without spaces count as a word."""
    pairs = len(_PAIR.findall(text))
    others = _PAIR.sub(" ", text).split()
    return pairs + sum(any(character.isalnum() for character in one) for one in others)
