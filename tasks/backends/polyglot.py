"""Several models as one backend, each for the windows of one language (``tasks.specs.plan``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from docmill.storage.core.specs import Spec
from docmill.tasks import languages
from docmill.tasks.backends import Backend, WindowSource
from docmill.tasks.backends.tokens import TokenCoder
from docmill.tasks.batching import Budget, Item, Pool
from docmill.tasks.kinds.base import Traits
from docmill.tasks.outputs import Output
from docmill.tasks.windows.windows import Coder, Encoded, LanguageCoders

# Batches of other languages that may wait here while one language is computed.
_MOST_WAITING = 4


def language_coder(language: str, coder: Coder) -> Coder:
    """Return a coder of texts of one language, which marks them as that language's."""

    def encode(texts: Sequence[str]) -> list[Encoded]:
        return [replace(encoded, language=language) for encoded in coder.encode(texts)]

    return TokenCoder(encode, coder.limit_tokens)


class PolyglotBackend:
    """The models of a spec that has one for each language, all of them loaded.

    They take turns: whichever language has the oldest window is computed until it has none left, or the others'
    windows pile up.
    """

    def __init__(self, specs: Mapping[str, Spec], open_one: Callable[[Spec], Backend]) -> None:
        self._backends: dict[str, Backend] = {}
        try:
            for language, spec in specs.items():
                self._backends[language] = open_one(spec)
        except BaseException:
            self.close()
            raise
        coders = {language: language_coder(language, backend) for language, backend in self._backends.items()}
        self.traits = Traits(
            language_coders=LanguageCoders(lambda language: coders[languages.plain(language)], frozenset(coders))
        )

    @property
    def limit_tokens(self) -> int:
        return min(backend.limit_tokens for backend in self._backends.values())

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        raise AssertionError("a text is encoded by its language's coder")

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        waiting: dict[str, Pool[Any]] = {language: Pool() for language in self._backends}
        language = next(iter(waiting))
        while True:
            yield from self._backends[language].run(_Sorted(source, waiting, language))
            oldest = {name: pool.oldest for name, pool in waiting.items() if pool.oldest is not None}
            if not oldest:
                return
            language = min(oldest, key=lambda name: oldest[name])

    def runtime(self) -> dict[str, Any]:
        """Return what the models have in common as it is, and what differs for each language."""
        runtimes = {language: backend.runtime() for language, backend in self._backends.items()}
        first, *others = runtimes.values()
        if all(other == first for other in others):
            return first
        differing = {
            name: "; ".join(f"{language}: {runtime[name]}" for language, runtime in runtimes.items())
            for name in ("device", "precision", "backend")
            if any(other[name] != first[name] for other in others)
        }
        versions = {name: value for runtime in runtimes.values() for name, value in runtime["versions"].items()}
        return {**first, **differing, "versions": versions}

    def close(self) -> None:
        while self._backends:
            self._backends.popitem()[1].close()


@dataclass(frozen=True)
class _Sorted:
    """The part of a source that a backend sees: the windows of its language. Those of others wait in their pools."""

    source: WindowSource
    waiting: Mapping[str, Pool[Any]]
    language: str

    def take(self, budget: Budget) -> Sequence[Item[Any]]:
        if budget.rows < 1:
            return self.source.take(budget)
        own = self.waiting[self.language]
        while len(own) < budget.rows and self._others() < _MOST_WAITING * budget.rows:
            items = self.source.take(budget)
            if not items:
                break
            for language, pool in self.waiting.items():
                pool.add(item for item in items if item.encoded.language == language)
        return own.take(budget)

    def _others(self) -> int:
        return sum(len(pool) for language, pool in self.waiting.items() if language != self.language)
