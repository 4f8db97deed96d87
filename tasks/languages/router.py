"""Route a text by its detected languages: translate it, keep it or refuse it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum, auto

from tasks.languages import language_codes
from tasks.languages.detection import Guess

# Of guesses at least so probable hardly one in two hundred is wrong, even of titles (docs/benchmarks.md).
SURE = 0.65
_MOST_LISTED = 6


class Action(StrEnum):
    TRANSLATE = auto()
    KEEP = auto()
    REFUSE = auto()


@dataclass(frozen=True, slots=True)
class Route:
    """``language`` is None where there was no guess, or none that the model reads: the text is taken for its own."""

    fate: Action
    language: str | None
    certain: bool

    @property
    def flags(self) -> tuple[str, ...]:
        return (
            *((f"language:{self.language}",) if self.language is not None else ()),
            *(("already_in_target",) if self.fate is Action.KEEP else ()),
            *(() if self.certain else ("language_uncertain",)),
        )


@dataclass(frozen=True)
class LanguageRouter:
    """The languages of a model. ``sources`` is None if they are not known to be limited.

    ``told`` says that the model must be told each text's language.
    """

    model: str
    target: str
    sources: frozenset[str] | None
    told: bool

    def route(self, guesses: Sequence[Guess]) -> Route:
        """Return the route of a text. A sure guess decides; else the best guess that the model reads or writes.

        A text without a guess has no letters, so it is the same in every language.
        """
        if not guesses:
            return Route(Action.KEEP, None, certain=False)
        sure = guesses[0].probability >= SURE
        for guess in guesses[:1] if sure else guesses:
            if language_codes.same_language(guess.language, self.target) and guess.language in language_codes.NAMES:
                return Route(Action.KEEP, guess.language, sure)
            if self._reads(guess.language):
                return Route(Action.TRANSLATE, guess.language, sure)
        if sure:
            return Route(Action.REFUSE, guesses[0].language, certain=True)
        return Route(Action.REFUSE if self.told else Action.TRANSLATE, None, certain=False)

    def refusal(self, route: Route) -> str:
        """Return the reason why a text was refused, as a sentence."""
        if route.language is None:
            return f"Its language cannot be told, and {self.model} must be told one."
        name = language_codes.NAMES.get(route.language, f"in the language {route.language}")
        listed = sorted(self.sources or ())
        if 0 < len(listed) <= _MOST_LISTED:
            return f"It is {name}, and {self.model} translates from {language_codes.listed(listed)}."
        return f"It is {name}, which {self.model} does not translate from."

    def _reads(self, language: str) -> bool:
        if language not in language_codes.NAMES:  # rare ones, whose codes may mean others in our table
            return self.sources is None and not self.told
        return self.sources is None or language_codes.plain(language) in self.sources
