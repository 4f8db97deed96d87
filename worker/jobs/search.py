"""Search a corpus by texts: their vectors, the nearest documents, and the passages that matched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Spec
from docmill.storage.readers import Record, Rejection
from docmill.storage.search.ann import Searched
from docmill.storage.search.knn import Matrix
from docmill.storage.search.search import StoredHit, choose, hits, search
from docmill.tasks.engine import queries
from docmill.tasks.engine.queries import Embed
from docmill.tasks.outputs import Vector
from docmill.worker.engines import choose_devices, running
from docmill.worker.jobs import Listener
from docmill.worker.settings import Settings
from docmill.worker.stores import corpus_names

BATCH_QUERIES = 512  # queries that share one pass over the corpus


@dataclass(frozen=True)
class SearchOptions:
    """The options of a search; None is the default of docmill or of the model."""

    top: int = 10
    job: int | None = None
    exact: bool = False
    passages: bool = True
    prompt: str | None = None
    prompt_name: str | None = None


@contextmanager
def open_search(
    settings: Settings,
    database: Database,
    corpus: str,
    options: SearchOptions,
    refuse: Callable[[str, str], None],
    listener: Listener,
    *,
    printing: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[Search]:
    """Yield a search of a corpus, named as `run --corpus` or by its source. Raises NotFound and NothingEmbedded.

    ``refuse`` is called for a query that has no vector, with its place and the reason. Libraries that embed a query
    may print in the block that ``printing`` opens.
    """
    device = choose_devices(settings.device)[0]
    searched = choose(database, corpus_names(corpus), options.job)
    spec = queries.with_prompt(searched.spec, options.prompt, options.prompt_name)
    if searched.others and options.job is None:
        others = "; ".join(searched.others)
        listener.say(f"By the vectors of job {searched.job_id}, {searched.spec}; --job takes others: {others}.")
    with listener.computing(), running(settings, device) as engine:
        yield Search(database, searched, spec, partial(queries.embed, engine), options, refuse, listener, printing)


@dataclass
class Search:
    """Queries answered in batches, each by one walk through the corpus, or an index, under a bar.

    `n_seen` and `n_embedded` count the documents of the last walk, and those with a vector.
    """

    database: Database
    searched: Searched
    spec: Spec
    embed: Embed
    options: SearchOptions
    refuse: Callable[[str, str], None]
    listener: Listener
    printing: Callable[[], AbstractContextManager[object]]
    n_seen: int = 0
    n_embedded: int = 0

    def answers(
        self, records: Iterable[Record | Rejection], at_a_time: int = BATCH_QUERIES
    ) -> Iterator[tuple[Record, list[StoredHit]]]:
        remaining = iter(records)
        while batch := list(islice(remaining, at_a_time)):
            yield from self._answered(batch)

    def _answered(self, batch: Sequence[Record | Rejection]) -> Iterator[tuple[Record, list[StoredHit]]]:

        records = [record for record in batch if isinstance(record, Record)]
        for record in batch:
            if not isinstance(record, Record):
                self.refuse(record.where, record.reason)
        if not records:
            return
        with self.listener.bar("search", total=self.searched.n_documents) as progress:
            progress.update(0, total=self.searched.n_documents, remark="embedding")
            with self.printing():
                outputs = self.embed(self.spec, [record.text for record in records])
            answerable = []
            for record, output in zip(records, outputs, strict=True):
                if isinstance(output, Vector):
                    answerable.append((record, output.values))
                else:
                    self.refuse(record.where, output.reason)
            if not answerable:
                return

            def advanced(n_seen: int, n_embedded: int) -> None:
                self.n_seen, self.n_embedded = n_seen, n_embedded
                progress.update(n_seen, total=max(n_seen, self.searched.n_documents))

            vectors = np.stack([vector for _, vector in answerable])
            self.n_seen = self.n_embedded = 0
            best = search(self.database, self.searched, vectors, self.options.top, advanced, exact=self.options.exact)
            if not self.n_seen:
                progress.update(self.searched.n_documents, remark="by the index")
        for (record, vector), ids, scores in zip(answerable, best.ids.tolist(), best.scores.tolist(), strict=True):
            nearest = hits(self.database, self.searched, vector, ids, scores)
            yield record, self._with_passages(record.text, vector, nearest) if self.options.passages else nearest

    def _with_passages(self, query: str, vector: Matrix, hits: list[StoredHit]) -> list[StoredHit]:
        with self.printing():
            texts = [(hit.text, hit.window) for hit in hits]
            nearest = queries.find_nearest(self.embed, self.spec, query, vector, texts)
        return [replace(hit, passage=span or hit.passage) for hit, span in zip(hits, nearest, strict=True)]
