"""The backend of the model `patterns`: it computes nothing, since the recipe finds the patterns in the whole text."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

from docmill.storage.core.specs import Spec
from docmill.tasks.backends import Source
from docmill.tasks.backends.static import StaticLoop
from docmill.tasks.batching import Budget
from docmill.tasks.errors import CannotServe
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models import weightless
from docmill.tasks.outputs import Output, Spans
from docmill.tasks.windows.windows import Encoded

_BUDGET = Budget(tokens=1_000_000, rows=64)
_LIBRARIES = ("phonenumberslite", "python-stdnum")


class PatternsBackend:
    """A token is a word, and each window has no spans."""

    def __init__(self, spec: Spec, *, device: str) -> None:
        if spec.revision != weightless.PATTERNS_REVISION:
            raise CannotServe(
                f"This release has {spec.model} as {weightless.PATTERNS_REVISION}, not as {spec.revision}."
            )
        self._device = device
        self._loop = StaticLoop(lambda items: [Spans(()) for _ in items], _BUDGET)
        self.limit_tokens: int = spec.params.get("window_tokens") or 2**31 - 1
        self.traits = Traits()

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return [Encoded(max(1, len(text.split())), text) for text in texts]

    def run(self, source: Source) -> Iterator[tuple[int, Output]]:
        return self._loop.run(source)

    def runtime(self) -> dict[str, Any]:
        versions = {"python": platform.python_version()} | {name: metadata.version(name) for name in _LIBRARIES}
        return {
            "device": self._device,
            "precision": "none",
            "backend": weightless.PATTERNS_REVISION,
            "versions": versions,
        }

    def close(self) -> None:
        """There is nothing to give back."""
