"""Patterns read a hostile text in steps that grow with its length, and not faster.

Expressions are run by a matcher that tries what Python's `re` tries, in the same order, and counts.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from docmill.tasks import patterns

EXPRESSIONS = {name: value for name, value in vars(patterns).items() if isinstance(value, re.Pattern)}
ONCE = ("_BEFORE_LOCAL", "_BEFORE_SIX", "_EXTENSION", "_GROUP", "_USUAL_CARD")  # tried at one place, not at each
# Repeated, each of these makes expressions of the usual form try every end for every start.
HOSTILE = (
    "a", "é", "@", "a@", "a.", "a@a.", "a=", "a'", '"a', "%40", "1", "1 ", "1.", "0", "00 1", "+1", "+1 ", "DE89 ",
    "DE 89", "4111 ", "http://", "http:", "//a.", "www.", "www.a", "://", "](", "._", ")", "()", "&quot", "&#0", ":",
    "1:", "a:", "::", "_", "-", "\\n", "\n", "中",
)  # fmt: skip
CHARS = 160  # more than any bounded repetition takes
Ops = Any
Go = Callable[[int], int | None]


class Steps:
    """The steps of an expression over a text; ``run`` finds all that `finditer` finds."""

    def __init__(self, expression: re.Pattern[str], text: str) -> None:
        self._ops = importlib.import_module("re._parser").parse(expression.pattern, expression.flags)
        self._folds = bool(expression.flags & re.IGNORECASE)
        self._ascii = bool(expression.flags & re.ASCII)
        self._text = text
        self.count = 0

    def match(self, at: int = 0) -> int | None:
        return self._match(list(self._ops), at, lambda place: place)

    def run(self) -> Iterator[tuple[int, int]]:
        at = 0
        while at <= len(self._text):
            end = self.match(at)
            if end is not None and end > at:
                yield at, end
            at = end if end is not None and end > at else at + 1

    def _match(self, ops: Ops, at: int, go: Go) -> int | None:
        if not ops:
            return go(at)
        self.count += 1
        (op, value), rest = ops[0], ops[1:]
        name = str(op)

        def then(place: int) -> int | None:
            return self._match(rest, place, go)

        if name in {"MAX_REPEAT", "POSSESSIVE_REPEAT"}:
            least, most, inner = value
            if name == "POSSESSIVE_REPEAT":
                end = self._repeat(list(inner), at, int(least), int(most), lambda place: place)
                return None if end is None else then(end)
            return self._repeat(list(inner), at, int(least), int(most), then)
        if name == "SUBPATTERN":
            return self._match([*value[3], *rest], at, go)
        if name == "BRANCH":
            ends = (self._match([*one, *rest], at, go) for one in value[1])
            return next((end for end in ends if end is not None), None)
        if name in {"ASSERT", "ASSERT_NOT"}:
            direction, inner = value
            start = at if direction > 0 else at - inner.getwidth()[0]
            holds = start >= 0 and self._match(list(inner), start, lambda place: place) is not None
            return then(at) if holds == (name == "ASSERT") else None
        if name == "AT":
            return then(at) if {"AT_END": at == len(self._text)}[str(value)] else None
        return then(at + 1) if at < len(self._text) and self._is_one(name, value, self._text[at]) else None

    def _repeat(self, ops: Ops, at: int, least: int, most: int, then: Go) -> int | None:
        """Take as many as there are, then fewer: by a loop where each is one character, or else by recursion."""
        if len(ops) == 1 and str(ops[0][0]) in {"IN", "LITERAL", "NOT_LITERAL", "ANY"}:
            end = at
            while end - at < most and end < len(self._text):
                self.count += 1
                if not self._is_one(str(ops[0][0]), ops[0][1], self._text[end]):
                    break
                end += 1
            ends = (then(place) for place in range(end, at + least - 1, -1))
            return next((place for place in ends if place is not None), None)

        def again(place: int) -> int | None:
            return self._repeat(ops, place, max(0, least - 1), most - 1, then) if place > at else None

        taken = self._match(ops, at, again) if most else None
        return then(at) if taken is None and not least else taken

    def _is_one(self, name: str, value: Any, character: str) -> bool:
        forms = {character, character.lower(), character.upper()} if self._folds else {character}
        if name == "ANY":
            return character != "\n"
        if name in {"LITERAL", "NOT_LITERAL"}:
            return (value in map(ord, forms)) == (name == "LITERAL")
        negated = str(value[0][0]) == "NEGATE"
        return any(self._is_in(item, form) for item in value[negated:] for form in forms if len(form) == 1) != negated

    def _is_in(self, item: Any, character: str) -> bool:
        name, value = str(item[0]), item[1]
        if name == "RANGE":
            return bool(value[0] <= ord(character) <= value[1])
        if name == "CATEGORY":
            kind = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}[str(value).rsplit("_", 1)[1]]
            is_kind = re.match(kind, character, re.ASCII if self._ascii else 0) is not None
            return is_kind != ("_NOT_" in str(value))
        return bool(value == ord(character))


@pytest.fixture(autouse=True)
def deep() -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    yield
    sys.setrecursionlimit(before)


def steps(expression: re.Pattern[str], text: str, once: bool = False) -> int:
    counted = Steps(expression, text)
    if once:
        match = expression.match(text)
        assert counted.match() == (match and match.end())
    else:
        assert [*counted.run()] == [match.span() for match in expression.finditer(text) if match.group()]
    return counted.count


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_the_steps_of_an_expression_grow_with_a_hostile_text(name: str) -> None:
    for hostile in HOSTILE:
        text = hostile * (CHARS // len(hostile))
        short, long = (steps(EXPRESSIONS[name], text * times, name.endswith(ONCE)) for times in (1, 2))
        assert long <= 2.3 * short + 200, hostile


@pytest.mark.parametrize("expression", [r"[a-z]+@", r"(?:a+)+b", r"(?:a|é|a)*\d", r"a.*b"])
def test_an_expression_that_tries_every_end_is_seen(expression: str) -> None:
    text = "a" * 7
    assert steps(re.compile(expression), text * 2) > 2.3 * steps(re.compile(expression), text)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_the_lines_that_are_run_grow_with_a_hostile_text(hostile: str) -> None:
    def lines(text: str) -> int:
        counted: Counter[str] = Counter()

        def trace(frame: FrameType, event: str, _value: object) -> Any:
            if "patterns" not in frame.f_code.co_filename:
                return None
            counted[event] += 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            patterns.find(text, patterns.PATTERNS)
        finally:
            sys.settrace(before)
        return counted["line"]

    text = hostile * (4 * CHARS // len(hostile))
    assert lines(text * 2) <= 2.3 * lines(text) + 500
