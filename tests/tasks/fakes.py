"""Specs, windows and backends without a model, for what real models cannot be made to do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from docmill.storage.core.specs import Outcome, Spec
from docmill.tasks import kinds
from docmill.tasks.backends import WindowSource
from docmill.tasks.backends.static import Items, StaticLoop
from docmill.tasks.batching import Budget, Item, Pool
from docmill.tasks.errors import OutOfMemory
from docmill.tasks.kinds.base import Computed, Recipe, Traits
from docmill.tasks.models.sentence_modules import Prompts
from docmill.tasks.outputs import Output, Vector
from docmill.tasks.specs.pinning import Pinned
from docmill.tasks.specs.plan import build_spec
from docmill.tasks.windows.windows import Encoded, Window

PINNED = Pinned("some/model", "0" * 40)


def spec_of(model: str = "fake") -> Spec:
    """Return the spec of a fake backend."""
    return Spec(kind="embed", model=model, revision="sha256:00")


def plan_spec(
    kind: str,
    config: Mapping[str, Any] | None = None,
    *,
    pinned: Pinned = PINNED,
    stated: Prompts | None = None,
    **options: Any,
) -> Spec:
    """Return the spec that the options of a kind of task make for a model with this config."""
    return build_spec(kind, pinned, kinds.options(kind, **options), config or {}, stated)


def raising(error: Exception | type[Exception]) -> Callable[..., NoReturn]:
    """Return a function that raises an error, whatever its arguments."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


def join(
    recipe: Recipe,
    text: str,
    windows: Sequence[Window],
    outputs: Sequence[Output | None],
    tokens_in: int = 9,
    tokens_out: int = 0,
) -> Outcome:
    """Return the outcome of a text, number 7, whose windows have these outputs."""
    outcome = recipe.join(Computed(7, text, windows, outputs, tokens_in, tokens_out))
    assert isinstance(outcome, Outcome)
    return outcome


def join_outputs(
    recipe: Recipe, outputs: Sequence[Output | None], tokens: Sequence[int] = (), **counts: int
) -> Outcome:
    """Return the outcome of a text with a window of one character for each output.

    A window without an output has no tokens, as one of white space.
    """
    windows = [
        Window(place, place + 1, None if output is None else Encoded(count, "x"), part=len(outputs) > 1)
        for place, (output, count) in enumerate(zip(outputs, tokens or [1] * len(outputs), strict=True))
    ]
    return join(recipe, "x" * len(outputs), windows, outputs, **counts)


def waiting(windows: Iterable[Encoded]) -> Pool[Any]:
    """Return a pool of windows, numbered from 0."""
    pool: Pool[Any] = Pool()
    pool.add(Item(number, window, None) for number, window in enumerate(windows))
    return pool


class FakeBackend:
    """A backend with a token for each word. A window's vector is (its tokens, 1), or NaN if its text has "nan".

    ``on_compute`` gets each batch's texts first, and may raise or wait. A batch of more than ``memory_tokens`` padded
    tokens does not fit in memory.
    """

    def __init__(
        self,
        on_compute: Callable[[list[str]], None] = lambda texts: None,
        *,
        limit_tokens: int = 1000,
        memory_tokens: int = 1_000_000,
        budget: Budget | None = None,
        name: str = "fake",
    ) -> None:
        self.name = name
        self.traits = Traits()
        self.limit_tokens = limit_tokens
        self.batches: list[list[str]] = []
        self.closed = threading.Event()
        self._on_compute = on_compute
        self._memory_tokens = memory_tokens
        self.loop = StaticLoop(self._compute, budget or Budget(tokens=100, rows=8))

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return [Encoded(max(1, len(text.split())), text) for text in texts]

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        return self.loop.run(source)

    def runtime(self) -> dict[str, Any]:
        return {"device": "none", "precision": "float32", "backend": self.name, "versions": {}}

    def close(self) -> None:
        self.closed.set()

    def _compute(self, items: Items) -> Sequence[Output]:
        texts = [str(item.encoded.features) for item in items]
        self.batches.append(texts)
        self._on_compute(texts)
        if len(items) * max(item.tokens for item in items) > self._memory_tokens:
            raise OutOfMemory
        return [
            Vector(np.array([np.nan if "nan" in text else item.tokens, 1], dtype=np.float32))
            for text, item in zip(texts, items, strict=True)
        ]
