"""Make silver questions about descriptions: with their answers, and some that the description does not answer."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from bench.adapters.corpus import Description

_NAME = r"[\w.:/@'~+#!-]+(?: [A-Z0-9][\w.:/@'~+#!-]*){0,3}"
_BEGIN = r"(?:^|(?<=\n)|(?<=[.!?] ))"
_ADJECTIVES = r"(?:(?:[a-z]+ly |very |and )?[\w/-]+, (?:and )?)*"
# The text up to the end of a clause. A full stop inside a word, as in ".NET" or "3.2", does not end it.
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
    """A kind of question, with its wordings and the pattern of a sentence that answers it.

    In a wording, {name} is the program's name. The pattern's first group is the name, and the second the answer.
    ``hints`` matches texts that may have an answer that the pattern does not find. Such a text gets no unanswered
    question of this kind. The unanswered questions of a ``named`` kind are about names that the text does not have.
    """

    name: str
    wordings: tuple[str, ...]
    answer: re.Pattern[str]
    hints: re.Pattern[str]
    named: bool = False


def _make_kind(name: str, wordings: tuple[str, ...], answer: str, hints: str, *, named: bool = False) -> Kind:
    return Kind(name, wordings, re.compile(answer), re.compile(hints, re.IGNORECASE), named)


KINDS = (
    _make_kind(
        "definition",
        ("What is {name}?", "What's {name}?", "what is {name}", "What kind of thing is {name}?"),
        rf"{_BEGIN}(?:The )?({_NAME})(?: \([^()]{{1,60}}\))?,? (?:is|was) "
        rf"((?:an?|the) {_ADJECTIVES}{_SPAN[1:]}{_END}",
        r"$^",
        named=True,
    ),
    _make_kind(
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
    _make_kind(
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
    _make_kind(
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
    _make_kind(
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
    _make_kind(
        "meaning",
        ("What does {name} stand for?", "What does {name} mean?", "What is {name} short for?"),
        rf"\b({_NAME}) (?:stands for|is short for|is an acronym (?:for|of)) {_SPAN}{_END}",
        r"$^",
        named=True,
    ),
)

# A name in the middle of a sentence that does not explain it.
_MENTIONED = re.compile(r"(?<=(?:with|from|into|like|.for|.via|.and) )[A-Z][\w+-]*[A-Z0-9+][\w+-]*(?=[ .;\n])")


@dataclass(frozen=True)
class Question:
    """A question about a text. ``start`` and ``end`` are None if the text does not answer it."""

    kind: str
    id: str
    text: str
    wording: str
    start: int | None = None
    end: int | None = None


def make_questions(description: Description, generator: random.Random, subjects: list[str]) -> Iterator[Question]:
    """Yield questions about a description. ``subjects`` are the subjects of all descriptions."""
    text = description.text
    name = find_subject(description)
    for kind in KINDS:
        match = kind.answer.search(text)
        if match is not None and _is_no_name(match[1]):
            continue
        if match is not None:
            wording = _phrase(kind, match[1] or name, generator)
            yield Question(kind.name, description.id, text, wording, *match.span(2))
        elif not kind.named and not kind.hints.search(text):
            yield Question(kind.name, description.id, text, _phrase(kind, name, generator))
        if kind.named:
            other = generator.choice(subjects)
            if other.lower() not in text.lower():
                yield Question(kind.name, description.id, text, _phrase(kind, other, generator))
    if mentioned := [mention for mention in _MENTIONED.findall(text) if not _may_explain(text, mention)]:
        wording = _phrase(KINDS[0], generator.choice(mentioned), generator)
        yield Question("mentioned", description.id, text, wording)


def find_subject(description: Description) -> str:
    """Return the name that the text defines, or the package's name."""
    match = KINDS[0].answer.search(description.text)
    return description.id if match is None or _is_no_name(match[1]) else match[1]


def _phrase(kind: Kind, name: str, generator: random.Random) -> str:
    return generator.choice(kind.wordings).format(name=name)


def _may_explain(text: str, name: str) -> bool:
    """Return True if the text may say what the named thing is."""
    named = re.escape(name)
    explanation = rf"{named}(?:'s)?(?: [\w-]+)? ?(?:(?:is|are|was|stands)\b|[(,:-])|[(\"']{named}|the {named}\b"
    return re.search(explanation, text) is not None


def _is_no_name(name: str) -> bool:
    """Return True for pronouns, and for nouns such as "goal" that begin a sentence but name no program."""
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
