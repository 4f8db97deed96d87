"""The comparison of two jobs: agreement, flags, confidence and a sample, in one walk through the corpus.

Embeddings take a second walk, for the neighbours of a sample.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from docmill.storage.core.database import Database
from docmill.storage.errors import CannotCompare
from docmill.storage.results import pairs
from docmill.storage.results.pairs import Pair, Side
from docmill.worker.comparing import neighbours
from docmill.worker.comparing.agreement import AGREEMENTS, Measures, Sureness
from docmill.worker.comparing.neighbours import Neighbourhood

T = TypeVar("T")
VECTOR = "vector"


@dataclass(frozen=True)
class Comparison:
    """Two jobs over the current documents of a corpus.

    `differing` of the `both` documents with two results have other outputs, and `samples` are drawn from them; of
    embeddings they are those whose `neighbourhoods` differ most.
    """

    a: Side
    b: Side
    documents: int
    both: int
    only_a: int
    only_b: int
    differing: int
    measures: Measures
    sure_a: Sureness
    sure_b: Sureness
    samples: tuple[Pair, ...]
    neighbourhoods: tuple[Neighbourhood, ...] = ()


class Reservoir(Generic[T]):
    """A random sample of so many things of a stream, each with the same chance."""

    def __init__(self, size: int, seed: int) -> None:
        self.kept: list[T] = []
        self._size = size
        self._chance = random.Random(seed)  # noqa: S311 - a sample that can be repeated
        self._met = 0

    def offer(self, one: T) -> None:
        """Take it, or leave it."""
        self._met += 1
        if len(self.kept) < self._size:
            self.kept.append(one)
        elif (place := self._chance.randrange(self._met)) < self._size:
            self.kept[place] = one


@dataclass
class _Counts:
    documents: int = 0
    both: int = 0
    only_a: int = 0
    only_b: int = 0
    differing: int = 0
    sure_a: Sureness = field(default_factory=Sureness)
    sure_b: Sureness = field(default_factory=Sureness)


def compare(
    database: Database,
    corpus_id: int,
    a: Side,
    b: Side,
    *,
    samples: int,
    seed: int,
    advanced: Callable[[int], None] = lambda _seen: None,
) -> Comparison:
    """Compare two jobs. `advanced` is told the number of documents read. Raises CannotCompare for other outputs."""
    if a.output.name != b.output.name:
        raise CannotCompare(
            f"job {a.job_id} gives {a.output.plural}, and job {b.job_id} {b.output.plural}: only results of one type "
            "can be compared"
        )
    agreement, counts = AGREEMENTS[a.output.name](), _Counts()
    shown = Reservoir[Pair](samples, seed)
    queries = Reservoir[Pair](neighbours.QUERIES if a.output.name == VECTOR else 0, seed)
    for page in pairs.pairs(database, corpus_id, a, b):
        for pair in page:
            counts.documents += 1
            if pair.a is None or pair.b is None:
                counts.only_a += pair.a is not None
                counts.only_b += pair.b is not None
                continue
            counts.both += 1
            counts.sure_a.add(pair.a)
            counts.sure_b.add(pair.b)
            queries.offer(pair)
            if not agreement.add(pair.a, pair.b):
                counts.differing += 1
                shown.offer(pair)
        advanced(counts.documents)
    measures, near = agreement.measures(), list[Neighbourhood]()
    if a.output.name == VECTOR:
        near = neighbours.neighbourhoods(queries.kept, pairs.pairs(database, corpus_id, a, b))
        n = len(near)
        measures[f"recall_at_{neighbours.K}"] = sum(one.recall for one in near) / n if n else None
        near.sort(key=lambda one: (one.recall, one.document_id))
        by_id = {pair.document_id: pair for pair in queries.kept}
        shown.kept = [by_id[one.document_id] for one in near[:samples] if one.recall < 1]
    return Comparison(
        a, b, **vars(counts), measures=measures, samples=tuple(shown.kept), neighbourhoods=tuple(near[:samples])
    )
