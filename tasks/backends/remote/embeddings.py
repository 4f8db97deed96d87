"""Vectors by a served model: `/embeddings`, some windows in a request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from docmill.tasks.backends import Assignment, Source
from docmill.tasks.backends.remote import answers, counting, opening
from docmill.tasks.backends.remote.client import Client
from docmill.tasks.backends.remote.flight import Flight, Items
from docmill.tasks.backends.remote.journal import Journal
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models import sentence_modules, weightless
from docmill.tasks.outputs import Output, Vector
from docmill.tasks.windows.windows import Encoded

_PATH = "/embeddings"
_UNBOUNDED = 2**31 - 1
# Texts in a request: enough to make its overhead small, few enough to keep its latency low.
_TEXTS = 32
_TOLERANCE = 1e-3


class EmbeddingsBackend:
    """One served model that gives vectors, under one spec.

    Opening embeds one word, since no server says whether its vectors have length 1.
    """

    def __init__(self, assignment: Assignment) -> None:
        spec = assignment.spec
        self._server = opening.require_server(assignment)
        self._name = weightless.served_name(spec.model)
        self._prefix = sentence_modules.prompt(spec, {}, None)
        self._counter = counting.counter(assignment.tokenizer, spec.params.get("tokenizer"))
        # The text of the control question is that of the opening.
        control = (_PATH, self._body(["text"]), partial(self._read, [1]))
        self._client = Client(self._server, spec, control)
        try:
            self._model = opening.stated(self._client, self._server, self._name)
            holds = opening.context_tokens(self._model) or _UNBOUNDED
            self.limit_tokens = min(holds, spec.params.get("window_tokens") or holds)
            (probe,) = self._client.post(*control)
        except BaseException:
            self._client.close()
            raise
        self._journal = Journal(self._server.journal, spec)
        length = float(np.linalg.norm(probe.values))
        self.traits = Traits(normalizes=abs(length - 1) < _TOLERANCE)

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        given = [self._prefix + text for text in texts]
        return [Encoded(self._counter.of_text(text), text) for text in given]

    def run(self, source: Source) -> Iterator[tuple[int, Output]]:
        return Flight(self._client, self._journal, self._begin, _TEXTS).run(source)

    def runtime(self) -> dict[str, Any]:
        return opening.runtime(self._server, self._model, None)

    def end_soon(self) -> None:
        self._client.end_soon()

    def forget(self, windows: Sequence[Encoded]) -> None:
        self._journal.forget(windows)

    def close(self) -> None:
        self._client.close()
        self._journal.close()

    def _begin(self, number: int, items: Items) -> None:
        texts = [str(item.encoded.features) for item in items]
        read = self._journal.keeping(
            [item.encoded for item in items], partial(self._read, [item.tokens for item in items])
        )
        self._client.begin(number, _PATH, self._body(texts), read)

    def _body(self, texts: Sequence[str]) -> Any:
        whole = {"model": self._name, "input": list(texts), "encoding_format": "float"}
        return partial(answers.without, whole)

    def _read(self, tokens: Sequence[int], answer: Mapping[str, Any]) -> list[Vector]:
        """Return the vectors of texts of about so many tokens. Raises ValueError and the like for half an answer."""
        rows = sorted(answer["data"], key=lambda row: row["index"])
        if [row["index"] for row in rows] != list(range(len(tokens))):
            raise ValueError("not a vector for each text")
        vectors = [np.asarray(row["embedding"], dtype=np.float32) for row in rows]
        if any(vector.ndim != 1 or vector.shape != vectors[0].shape or not len(vector) for vector in vectors):
            raise ValueError("vectors of several lengths")
        if not all(np.isfinite(vector).all() for vector in vectors):
            raise ValueError("numbers that are none")
        read = answers.token_count(answer.get("usage"), "prompt_tokens")
        shares = [None] * len(tokens) if not read else _shares(read, tokens)
        return [Vector(vector, share) for vector, share in zip(vectors, shares, strict=True)]


def _shares(total: int, tokens: Sequence[int]) -> list[int]:
    """Split a total into whole numbers in proportion to the estimates."""
    ends = np.round(np.cumsum(tokens) / sum(tokens) * total).astype(int)
    return [int(part) for part in np.diff(ends, prepend=0)]
