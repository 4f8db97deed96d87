"""Search a corpus by texts: their vectors, the nearest documents, and the passages that matched."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from docmill.storage.core.database import Database
from docmill.storage.core.normalize import normalize
from docmill.storage.core.specs import Reason, Spec, Status
from docmill.storage.readers import Record, Rejection
from docmill.storage.search.ann import Searched
from docmill.storage.search.knn import Matrix, cosines
from docmill.storage.search.search import StoredHit, choose, hits, search
from docmill.tasks.errors import EngineStopped
from docmill.tasks.kinds.embed import check_prompt
from docmill.tasks.models.sentence_modules import QUERY
from docmill.tasks.outputs import Failure, Vector
from docmill.tasks.windows.windows import split, trimmed
from docmill.worker.engines import choose_devices, running
from docmill.worker.jobs import Listener
from docmill.worker.settings import Settings
from docmill.worker.stores import corpus_names

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

    Raises CannotServe if the model cannot be opened, and the error of which the device died.
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


def propose_passages(text: str, spans: Sequence[Extent], query: str) -> list[Extent]:
    """Return at most `COMPARED` passages, in text order: some that share words with the query, others spread evenly.

    A word counts for more if fewer passages have it.
    """
    if len(spans) <= COMPARED:
        return [*spans]
    query_words = _words(query)
    shared = [query_words & _words(text[start:end]) for start, end in spans]
    n_having = Counter(word for words in shared for word in words)
    weights = [sum(1 / n_having[word] for word in words) for words in shared]
    by_weight = sorted((place for place, weight in enumerate(weights) if weight), key=lambda place: -weights[place])
    chosen = {*by_weight[: COMPARED // 2]}
    others = [place for place in range(len(spans)) if place not in chosen]
    room = COMPARED - len(chosen)
    chosen |= {others[number * (len(others) - 1) // (room - 1)] for number in range(room)}
    return [spans[place] for place in sorted(chosen)]


def find_nearest(
    embed: Embed,
    spec: Spec,
    query: str,
    vector: npt.NDArray[np.float32],
    texts: Sequence[tuple[str, Extent | None]],
) -> list[Extent | None]:
    """Return the passage of each (text, stretch) that is nearest to the query, whose vector is (dim,).

    Passages are embedded as queries are: documents may have another prompt, with which the model would have to be
    opened again. It is None if no passage could be embedded.
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


MOST_HITS = 1_000
BATCH_QUERIES = 512  # queries that share one pass over the corpus


def query_record(text: str, where: str) -> Record:
    """Return a text that was typed as a query. Messages about it begin with `where`."""
    return Record("", normalize(text)[0], {}, (), where)


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
    spec = with_prompt(searched.spec, options.prompt, options.prompt_name)
    if searched.others and options.job is None:
        others = "; ".join(searched.others)
        listener.say(f"By the vectors of job {searched.job_id}, {searched.spec}; --job takes others: {others}.")
    with listener.computing(), running(settings, device) as engine:
        yield Search(database, searched, spec, partial(embed, engine), options, refuse, listener, printing)


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
            progress.update(self.n_seen, total=self.n_seen)  # an index gives fewer than all
        for (record, vector), ids, scores in zip(answerable, best.ids.tolist(), best.scores.tolist(), strict=True):
            nearest = hits(self.database, self.searched, vector, ids, scores)
            yield record, self._with_passages(record.text, vector, nearest) if self.options.passages else nearest

    def _with_passages(self, query: str, vector: Matrix, hits: list[StoredHit]) -> list[StoredHit]:
        with self.printing():
            texts = [(hit.text, hit.window) for hit in hits]
            nearest = find_nearest(self.embed, self.spec, query, vector, texts)
        return [replace(hit, passage=span or hit.passage) for hit, span in zip(hits, nearest, strict=True)]
