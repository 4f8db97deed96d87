"""Questions that a user gives: from a text, a list or a table, checked and in one form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pydantic_core import PydanticCustomError

from storage.steps.templates import BadTemplate, parse_question
from tasks.kinds.validation import shown

ANSWER = "answer"  # the name of a question that is given without a name
# Endings of the columns beside an answer.
SCORE, NO_ANSWER, SPANS = "_score", "_no_answer", "_spans"
_NAMED = re.compile(r"(\w+)=(.*)", re.DOTALL)
# Step and question together make the names of columns, of which PostgreSQL takes 63 bytes.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,29}", re.ASCII)
_EXPECTED = 'must be a question, a list of questions, or a table such as { author = "Who wrote it?" }'


def questions_by_name(given: object) -> dict[str, str]:
    """Return the questions by their names. A text may begin with the name: ``author=Who wrote it?``.

    Raises PydanticCustomError, whose message continues a sentence that begins with the option's name.
    """
    pairs = [*_pairs(given)]
    found: dict[str, str] = {}
    for place, (name, question) in enumerate(pairs, 1):
        if not isinstance(question, str):
            raise _wrong(f"{_EXPECTED}; {shown(question)} is none of these")
        named = name or (ANSWER if len(pairs) == 1 else f"{ANSWER}_{place}")
        read = " ".join(question.split())
        if not _NAME.fullmatch(named):
            raise _wrong(
                f"has the name {shown(named)}; a name has up to 30 small letters, digits and _, as in "
                "'author=Who wrote it?'"
            )
        if not read:
            raise _wrong(f"has no words for {named}")
        if not read.isprintable():
            raise _wrong(f"has a character that cannot be printed: {shown(ascii(read))}")
        if named in found:
            raise _wrong(f"names {named} twice")
        try:
            parse_question(read)
        except BadTemplate as error:
            raise _wrong(f"{shown(read)}: {error}".removesuffix(".")) from error
        found[named] = read
    if not found:
        raise _wrong("holds no question")
    _check_columns(found)
    return found


def columns(name: str) -> tuple[str, ...]:
    """Return the columns that the answer to a question has."""
    return (name, *(name + ending for ending in (SCORE, NO_ANSWER, SPANS)))


def _pairs(given: object) -> Iterable[tuple[str | None, object]]:
    if isinstance(given, Mapping):
        return [(str(name), question) for name, question in given.items()]
    if not isinstance(given, str | list | tuple):
        raise _wrong(f"{_EXPECTED}, not {shown(given)}")
    texts = [given] if isinstance(given, str) else given
    return [(None, one) if (match := _named(one)) is None else (match[1], match[2]) for one in texts]


def _named(text: object) -> re.Match[str] | None:
    return _NAMED.match(text) if isinstance(text, str) else None


def _check_columns(found: Iterable[str]) -> None:
    """Raise PydanticCustomError if the answers to two questions would have a column of the same name."""
    taken: dict[str, str] = {}
    for name in found:
        for column in columns(name):
            if (other := taken.setdefault(column, name)) != name:
                raise _wrong(f"names {other} and {name}, which both have a column {column}; choose another name")


def _wrong(sentence: str) -> PydanticCustomError:
    return PydanticCustomError("value", "{sentence}", {"sentence": sentence})
