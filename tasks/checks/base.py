"""The parts that every check has: what it is told of the two texts, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Context:
    """Facts about an output that its two texts do not show.

    ``source`` and ``target`` are the codes of the languages of input and output, None where they are not known.
    ``shortened``: the output need not say all that the input says, such as a summary. ``same_language``: both texts
    are in one language, whichever that is.
    """

    source: str | None = None
    target: str | None = None
    shortened: bool = False
    same_language: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """A reason to doubt an output: its flag, and a sentence for people.

    ``start`` and ``end`` are offsets in characters of the output, None where the output lacks something. ``lost`` is
    the place in the input of that which the output lacks, or has replaced.
    """

    flag: str
    evidence: str
    start: int | None = None
    end: int | None = None
    lost: tuple[int, int] | None = None


@dataclass(frozen=True)
class Check:
    """A check by its flag.

    ``find`` yields its findings, given the input, the output and the context. It depends on nothing else, so that the
    same texts have the same findings later. ``doubts`` says in a few words what is found.
    """

    flag: str
    doubts: str
    find: Callable[[str, str, Context], Iterable[Finding]]


_MOST_QUOTED = 60


def quoted(text: str) -> str:
    """Return a text in quotation marks on one line, with its middle left out if it is long."""
    line = " ".join(text.split())
    half = _MOST_QUOTED // 2
    return f"“{line}”" if len(line) <= _MOST_QUOTED else f"“{line[:half]} … {line[-half:]}”"
