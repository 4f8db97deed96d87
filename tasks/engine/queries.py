"""Embed queries as their documents were, with the model's own prompt for queries, and find the nearest passages.

A query is not a document: no job has its spec, and its vector is not stored.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from docmill.storage.core.specs import Reason, Spec, Status
from docmill.storage.search.knn import cosines
from docmill.tasks.errors import EngineStopped
from docmill.tasks.kinds.embed import check_prompt
from docmill.tasks.models.sentence_modules import QUERY
from docmill.tasks.outputs import Failure, Vector
from docmill.tasks.windows.windows import split, trimmed

if TYPE_CHECKING:
    from docmill.tasks.engine.engine import Engine

Embed = Callable[[Spec, Sequence[str]], list[Vector | Failure]]  # `embed` by an engine, wherever that is


def query_spec(spec: Spec) -> Spec:
    """Return the spec under which queries to vectors of an embed spec are embedded.

    A query longer than the window is the mean of its windows, also where documents keep all of theirs.
    """
    params = {name: value for name, value in spec.params.items() if name != "windows"}
    return replace(spec, params={**params, "side": QUERY})


def with_prompt(spec: Spec, prompt: str | None, prompt_name: str | None) -> Spec:
    """Return an embed spec whose queries get this prompt, or the one of this name in the model's files.

    Raises BadOption for a prompt that no embedding model reads.
    """
    if prompt is not None:
        check_prompt(prompt)
    prompts = {"query_prompt": prompt, "query_prompt_name": prompt_name}
    return replace(
        spec, params={**spec.params, **{name: value for name, value in prompts.items() if value is not None}}
    )


def embed(engine: Engine, spec: Spec, queries: Sequence[str]) -> list[Vector | Failure]:
    """Return a vector for each query to documents that were embedded under the spec, or the reason why there is none.

    Raises CannotServe when the model cannot be opened, and what the device died of.
    """
    ticket = engine.submit(query_spec(spec), list(enumerate(queries)))
    ticket.wait()
    if not ticket.complete:
        raise engine.error or EngineStopped()
    embedded: list[Vector | Failure] = []
    for outcome in ticket.finished():
        if outcome.status is Status.DONE and outcome.vector is not None:
            embedded.append(Vector(np.frombuffer(outcome.vector, "<f4")))
        else:
            embedded.append(Failure(outcome.reason or "", outcome.reason_class or Reason.DOCUMENT))
    return embedded


PASSAGE_CHARS = 200  # a sentence or two
COMPARED = 24  # passages of a document that are embedded: all of one of about 800 words

Extent = tuple[int, int]


def cut_passages(text: str, within: Extent | None = None) -> list[Extent]:
    """Return the passages of a text, or of one of its stretches, as [start, end) in characters.

    They end where paragraphs and sentences do, and have no white space at their ends.
    """
    start, end = within or (0, len(text))
    pieces = split(text[start:end], len, PASSAGE_CHARS)
    spans = [trimmed(text, start + first, start + last) for first, last in pieces]
    return [span for span in spans if span[0] < span[1]]


def propose_passages(text: str, spans: Sequence[Extent], query: str, most: int = COMPARED) -> list[Extent]:
    """Return at most so many passages, in their order: those with words of the query, then some spread evenly.

    A word counts for more where fewer passages have it.
    """
    if len(spans) <= most:
        return [*spans]
    query_words = _words(query)
    shared = [query_words & _words(text[start:end]) for start, end in spans]
    n_having = Counter(word for words in shared for word in words)
    weights = [sum(1 / n_having[word] for word in words) for words in shared]
    by_weight = sorted((place for place, weight in enumerate(weights) if weight), key=lambda place: -weights[place])
    chosen = {*by_weight[: most // 2]}
    others = [place for place in range(len(spans)) if place not in chosen]
    room = most - len(chosen)
    chosen |= {others[number * (len(others) - 1) // (room - 1)] for number in range(room)}
    return [spans[place] for place in sorted(chosen)]


def find_nearest(
    embed: Embed,
    spec: Spec,
    query: str,
    vector: npt.NDArray[np.float32],
    texts: Sequence[tuple[str, Extent | None]],
) -> list[Extent | None]:
    """Return of each (text, stretch) the passage nearest to the query, whose vector is (dim,).

    Passages are embedded as queries are: documents may have another prompt, with which the model would have to be
    opened again. None where no passage could be embedded.
    """
    choices = [propose_passages(text, cut_passages(text, within), query) for text, within in texts]
    passages = [
        text[slice(*span)]
        for (text, _), spans in zip(texts, choices, strict=True)
        if len(spans) > 1
        for span in spans
    ]
    outputs = iter(embed(spec, passages) if passages else ())
    nearest: list[Extent | None] = []
    for spans in choices:
        if len(spans) > 1:
            embedded = [(span, output.values) for span in spans if isinstance(output := next(outputs), Vector)]
            nearest.append(_best(vector, embedded))
        else:
            nearest.append(spans[0] if spans else None)
    return nearest


def _best(
    query: npt.NDArray[np.float32], embedded: Sequence[tuple[Extent, npt.NDArray[np.float32]]]
) -> Extent | None:
    if not embedded:
        return None
    scores = cosines(query[None], np.stack([vector for _, vector in embedded]))
    return embedded[int(scores[0].argmax())][0]


def _words(text: str) -> set[str]:
    return {*re.findall(r"\w+", text.casefold())}
