"""Silver questions with their answers in descriptions, and questions that a description does not answer."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from bench.adapters.corpus import Description

_NAME = r"[\w.:/@'~+#!-]+(?: [A-Z0-9][\w.:/@'~+#!-]*){0,3}"
_BEGIN = r"(?:^|(?<=\n)|(?<=[.!?] ))"
_ADJECTIVES = r"(?:(?:[a-z]+ly |very |and )?[\w/-]+, (?:and )?)*"
# Up to the end of a clause. A full stop inside a word, as in ".NET" or "3.2", does not end it.
_SPAN = r"((?:[^.,;:()\n]|[.,:](?=\w)){3,120}?)"
_END = (
    r"(?=[.,;:](?:\s|$)|\s*\(|\s*\n|$|\s+(?:that|which|who|where|whose|written in|based on|capable of|"
    r"intended|designed|used to|made|developed|created|implemented|provided|using|with which|in order to|so that|"
    r"when|while|but|aimed|supporting|providing|allowing|featuring|including)\b)"
)
_LANGUAGE = (
    r"((?:pure |portable |plain |standard |ANSI |modern )?(?:Ada|assembl(?:er|y)|Bash|bash|C#|"
    r"C\+\+(?:\d\d)?(?: and Python)?|C(?!\w)|Clojure|Common Lisp|D(?!\w)|"
    r"Elixir|Emacs Lisp|Erlang|F#|Fortran(?: \d\d)?|Go(?:lang)?(?!\w)|Haskell|Java(?!\w)|"
    r"JavaScript|Javascript|Julia|Lisp|Lua|Nim|Node\.js|"
    r"OCaml|Objective-C|Objective Caml|PHP|Pascal|Perl(?: ?5)?|perl|Prolog|Python ?[23]?(?:\.\d)?|"
    r"python|Qt|R(?!\w)|Ruby|ruby|Rust|SML|"
    r"Scala|Scheme|Swift|Tcl(?:/Tk)?|TypeScript|Vala|XSLT|shell(?: script)?))(?![\w+#])"
)


@dataclass(frozen=True)
class Kind:
    """A kind of question: how it is asked, where descriptions answer it, and words of texts that may answer it.

    {name} is the program's name; in patterns it is the first group. ``hints`` matches texts in which an answer may
    stand that the pattern does not find: such a text makes no question without an answer.
    """

    name: str
    asked: tuple[str, ...]
    answered: re.Pattern[str]
    hints: re.Pattern[str]
    named: bool = False


def _kind(name: str, asked: tuple[str, ...], answered: str, hints: str, *, named: bool = False) -> Kind:
    return Kind(name, asked, re.compile(answered), re.compile(hints, re.IGNORECASE), named)


KINDS = (
    _kind(
        "definition",
        ("What is {name}?", "What's {name}?", "what is {name}", "What kind of thing is {name}?"),
        rf"{_BEGIN}(?:The )?({_NAME})(?: \([^()]{{1,60}}\))?,? (?:is|was) "
        rf"((?:an?|the) {_ADJECTIVES}{_SPAN[1:]}{_END}",
        r"$^",
        named=True,
    ),
    _kind(
        "language",
        (
            "What is {name} written in?",
            "Which programming language is it written in?",
            "What is it written in?",
            "In which language is {name} implemented?",
            "What language is {name} written in?",
        ),
        rf"()\b(?:written|implemented|programmed|coded|rewritten)(?: entirely| completely| purely)? "
        rf"in (?:the )?{_LANGUAGE}",
        r"\b(?:written|implement|program|coded|language|pure|python|perl|java|ruby|haskell|library for|"
        r"c\+\+|\bin c\b|rust|php|ocaml)",
    ),
    _kind(
        "purpose",
        (
            "What is {name} used for?",
            "What is it used for?",
            "What can it be used for?",
            "What is the use of {name}?",
        ),
        rf"()\b(?:can be|is|are|be|typically|mainly|commonly) used (?:to|for|as) {_SPAN}{_END}",
        r"\b(?:use|using|useful|allow|help|enable|purpose|intended|for )",
    ),
    _kind(
        "contents",
        (
            "What does the package contain?",
            "What does this package provide?",
            "What is in the package?",
            "What does the package include?",
        ),
        rf"()\b[Tt]his package (?:contains|provides|includes|installs|ships) {_SPAN}{_END}",
        r"\b(?:package|contains?|provides?|includes?)\b",
    ),
    _kind(
        "basis",
        (
            "What is {name} based on?",
            "What is it based on?",
            "On what is {name} based?",
            "What does {name} build on?",
        ),
        rf"()\b(?:is|are|was|and|) ?(?<!-)based (?:up)?on {_SPAN}{_END}",
        r"\b(?:based|built|build|top of|derived|fork|around|uses|using)\b",
    ),
    _kind(
        "meaning",
        ("What does {name} stand for?", "What does {name} mean?", "What is {name} short for?"),
        rf"\b({_NAME}) (?:stands for|is short for|is an acronym (?:for|of)) {_SPAN}{_END}",
        r"$^",
        named=True,
    ),
)

# A name in the middle of a sentence that says nothing about it.
_MENTIONED = re.compile(r"(?<=(?:with|from|into|like|.for|.via|.and) )[A-Z][\w+-]*[A-Z0-9+][\w+-]*(?=[ .;\n])")


@dataclass(frozen=True)
class Asked:
    """A question about a text; ``start`` and ``end`` are None if the text does not answer it."""

    kind: str
    id: str
    text: str
    question: str
    start: int | None = None
    end: int | None = None


def questions(row: Description, chance: random.Random, others: list[str]) -> Iterator[Asked]:
    """Yield questions about a description. ``others`` are names in other descriptions."""
    name = subject(row)
    for kind in KINDS:
        match = kind.answered.search(row.text)
        if match is not None and _pronoun(match[1]):
            continue
        if match is not None:
            asked = _question(kind, match[1] or name, chance)
            yield Asked(kind.name, row.id, row.text, asked, *match.span(2))
        elif not kind.named and not kind.hints.search(row.text):
            yield Asked(kind.name, row.id, row.text, _question(kind, name, chance))
        if kind.named:  # of another name, which the text does not have
            other = chance.choice(others)
            if other.lower() not in row.text.lower():
                yield Asked(kind.name, row.id, row.text, _question(kind, other, chance))
    if mentioned := [found for found in _MENTIONED.findall(row.text) if not _explained(found, row.text)]:
        yield Asked("mentioned", row.id, row.text, _question(KINDS[0], chance.choice(mentioned), chance))


def subject(row: Description) -> str:
    """Return the name that the text defines, or the package's."""
    match = KINDS[0].answered.search(row.text)
    return row.id if match is None or _pronoun(match[1]) else match[1]


def _question(kind: Kind, name: str, chance: random.Random) -> str:
    return chance.choice(kind.asked).format(name=name)


def _explained(name: str, text: str) -> bool:
    """Return True if a text may say what a thing is."""
    named = re.escape(name)
    told = rf"{named}(?:'s)?(?: [\w-]+)? ?(?:(?:is|are|was|stands)\b|[(,:-])|[(\"']{named}|the {named}\b"
    return re.search(told, text) is not None


def _pronoun(name: str) -> bool:
    return name.lower() in {
        "it",
        "this",
        "that",
        "there",
        "they",
        "these",
        "which",
        "here",
        "what",
        "he",
        "one",
        "goal",
        "aim",
        "purpose",
        "result",
        "idea",
    }
