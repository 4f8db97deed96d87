"""Backends of models without weights: ``null``, ``patterns`` and ``none``. They import no model library.

``null`` computes nothing. It serves to measure the queue, the store and the engine, and to test faults.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import platform
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from docmill.storage.core.specs import Spec
from docmill.storage.outputs.output_types import LABELS, RECORD, REDACTED, SCHEMA, SPANS, VECTOR, WEIGHTS, N
from docmill.tasks import kinds
from docmill.tasks.backends import WindowSource
from docmill.tasks.backends.static import Items, StaticLoop, padded_tokens
from docmill.tasks.batching import UNBOUNDED, Budget
from docmill.tasks.errors import CannotServe
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models import weightless
from docmill.tasks.models.families import OUR_LIMIT_TOKENS
from docmill.tasks.outputs import (
    Generated,
    Head,
    Labels,
    Output,
    Several,
    Span,
    Spans,
    Vector,
    Vocabulary,
    Weights,
)
from docmill.tasks.windows.windows import Encoded

_NULL_BUDGET, _PATTERNS_BUDGET = Budget(tokens=4096, rows=64), Budget(tokens=1_000_000, rows=64)


class _WordBackend:
    """A backend whose tokens are words. Subclasses set the limit and the traits, and make the loop."""

    limit_tokens: int
    traits: Traits
    _loop: StaticLoop
    _libraries: tuple[str, ...] = ()

    def __init__(self, spec: Spec, device: str) -> None:
        self._revision = weightless.revision(spec.model)
        self._device = device
        if spec.revision != self._revision:
            raise CannotServe(f"This release has {spec.model} as {self._revision}, not as {spec.revision}.")

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return [Encoded(max(1, len(text.split())), text) for text in texts]

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        return self._loop.run(source)

    def runtime(self) -> dict[str, Any]:
        versions = {"python": platform.python_version()} | {name: metadata.version(name) for name in self._libraries}
        return {"device": self._device, "precision": "none", "backend": self._revision, "versions": versions}

    def close(self) -> None:
        """Do nothing: there is no memory to free."""


class PatternsBackend(_WordBackend):
    """Finds no spans in windows: the recipe finds them in the whole text."""

    _libraries = ("phonenumberslite", "python-stdnum")

    def __init__(self, spec: Spec, *, device: str) -> None:
        super().__init__(spec, device)
        self._loop = StaticLoop(lambda items: [Spans(()) for _ in items], _PATTERNS_BUDGET)
        self.limit_tokens = spec.params.get("window_tokens") or UNBOUNDED
        self.traits = Traits()


class NullBackend(_WordBackend):
    """Repeats a text or its first words. A vector is a hash of the text.

    Labels and weights follow from the hash; a span or an answer is the first word. A record is the shortest that its
    schema allows, or the number of words if its kind has no schema. Other options have no effect.

    ``sleep`` is called with the seconds that a batch takes at the pace in the model's name.
    """

    def __init__(self, spec: Spec, *, device: str, sleep: Callable[[float], None] = time.sleep) -> None:
        super().__init__(spec, device)
        self._kind = kinds.kind(spec.kind)
        self._labels: Collection[str] = spec.params.get("labels") or ()
        self._record: str | None = None
        if SCHEMA in spec.params:
            from docmill.tasks.schema_checks import shortest  # imports jsonschema

            self._record = shortest(json.loads(spec.params[SCHEMA]))
        self._n: int = spec.params.get(N, 1)
        self._tokens_per_s = weightless.null_pace(spec.model)
        self._sleep = sleep
        self._loop = StaticLoop(self._compute, _NULL_BUDGET)
        self.limit_tokens = min(OUR_LIMIT_TOKENS, spec.params.get("window_tokens") or OUR_LIMIT_TOKENS)
        self.traits = Traits(normalizes=True)

    def _compute(self, items: Items) -> Sequence[Output]:
        if self._tokens_per_s is not None:
            self._sleep(padded_tokens(items) / self._tokens_per_s)
        return [self._output(str(item.encoded.features)) for item in items]

    def _output(self, text: str) -> Output:
        words = text.split()
        if self._kind.output is VECTOR:
            return vector(text)
        if self._kind.output is WEIGHTS:
            return weights(text)
        if self._kind.output is LABELS:
            return labels(text, self._labels)
        if self._kind.output in (SPANS, REDACTED) or Head.ANSWERING in self._kind.families.values():
            return first_word(text)
        if self._kind.output is RECORD:
            return Generated(self._record or json.dumps({"words": len(words)}), 0)
        if (most := self._kind.null_words) is not None:
            words = words[:most]
            return Generated(" ".join(words), len(words))
        written = Generated(text, len(words))
        return written if self._n == 1 else Several((written,) * self._n)


def labels(text: str, names: Collection[str] = ()) -> Labels:
    """Return these labels, or two labels of its own, with scores from the bytes of the text's SHA-256."""
    scores = [byte / 255 for byte in hashlib.sha256(text.encode()).digest()]
    if names:
        return Labels(dict(zip(names, itertools.cycle(scores), strict=False)))
    return Labels({"even": scores[0], "odd": 1 - scores[0]})


def weights(text: str) -> Weights:
    """Return two tokens with weights from the text's SHA-256."""
    scores = labels(text).scores
    return Weights(Vocabulary([*scores]), np.arange(len(scores)), np.array([*scores.values()], np.float32))


def first_word(text: str) -> Spans:
    """Return the first word of a text as a span."""
    word = re.search(r"\S+", text)
    return Spans(() if word is None else (Span(weightless.NULL, *word.span(), 1.0),))


def vector(text: str) -> Vector:
    """Return the SHA-256 of the text as 8 numbers in [-1, 1), scaled to length 1."""
    numbers = np.frombuffer(hashlib.sha256(text.encode()).digest(), "<i4") / 2.0**31
    return Vector((numbers / np.linalg.norm(numbers)).astype(np.float32))
