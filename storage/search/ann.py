"""Candidates from an index of vectors, if there is one and it saves time.

Candidates are compared exactly like all documents, so an index changes no score. Documents that were embedded after
the index was built are candidates, too. If the index cannot give enough, every document is compared.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from sqlalchemy import ColumnElement, FromClause, Select, func, literal, select, text, true
from sqlalchemy.dialects.postgresql import ARRAY

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import is_current_document
from docmill.storage.core.schema import Document, OutcomeRow, Prompt
from docmill.storage.core.specs import Spec
from docmill.storage.core.transaction import Transaction
from docmill.storage.outputs.output_types import keeps_windows
from docmill.storage.search import pgvector_index
from docmill.storage.search.knn import Matrix
from docmill.storage.steps import choosing
from docmill.storage.steps.choosing import compared_by, is_read, selects
from docmill.storage.steps.steps import OpenStep

SPARE = 2  # candidates for each wanted document
WINDOWS = 4  # vectors for each content, if every window of a text has one
BREADTH = 200  # hnsw.ef_search, at most 1,000
MOST_SCANNED = 20_000  # vectors scanned for one query, pgvector's own limit
MOST_LACKING = 5_000  # contents without an entry in the index
MOST_PROPOSED = 2**15

# Seconds, as measured (see "Search" in bench/results/diary.md).
ASKING_S, SCANNED_S, CHECKED_S = 5e-3, 1.5e-5, 4e-7  # a query; a scanned vector; a check for a lacking one
WALKED_S, COMPARED_S = 2e-5, 4e-8  # a document; its comparison with one query


def is_worth_it(n_queries: int, n_wanted: int, n_documents: int, n_indexed: int) -> bool:
    """Return True if a search by the index costs less than comparing every document of the corpus.

    The smaller the corpus's share of the index's vectors, the more vectors are scanned for each of the corpus.
    """
    scanned = n_wanted * max(1.0, n_indexed / max(1, n_documents))
    if scanned > MOST_SCANNED or n_queries * n_wanted > MOST_PROPOSED:
        return False
    asked_s = n_queries * (ASKING_S + scanned * SCANNED_S) + n_indexed * CHECKED_S
    return asked_s < n_documents * (WALKED_S + n_queries * COMPARED_S)


def propose(database: Database, searched: Searched, queries: Matrix, top: int) -> dict[int, int] | None:
    """Return candidates for the `top` nearest to each query, in the order of the source; None to compare all.

    They are documents, by their ids, with the content of each that was embedded.
    """
    if database.server is None:
        return None
    n_wanted = SPARE * top
    with database.read() as transaction:
        n_indexed = pgvector_index.size(transaction, searched.spec_id)
        if n_indexed is None or not is_worth_it(len(queries), n_wanted, searched.n_documents, n_indexed):
            return None
        transaction.prefer_indexes()
        contents = {*pgvector_index.find_lacking(transaction, searched.spec_id, MOST_LACKING + 1)}
        if len(contents) > MOST_LACKING:
            return None
        _set_out(transaction, n_wanted)
        for query in queries:
            near = _near(transaction, searched, query, n_wanted)
            if len(near) < n_wanted:
                return None
            contents |= near
        transaction.exec_driver_sql("SET LOCAL enable_sort = on")
        return _documents(transaction, searched, contents, top)


def _set_out(transaction: Transaction, n_wanted: int) -> None:
    """Make the following queries scan the index iteratively until the filter has passed enough rows.

    The order is nearly that of distances. pgvector's strict order drops rows that come late, and here all rows are
    compared.
    """
    transaction.exec_driver_sql("SET LOCAL enable_sort = off")
    transaction.exec_driver_sql("SET LOCAL hnsw.iterative_scan = relaxed_order")
    transaction.exec_driver_sql(f"SET LOCAL hnsw.ef_search = {min(1_000, max(BREADTH, n_wanted))}")
    transaction.exec_driver_sql(f"SET LOCAL hnsw.max_scan_tuples = {MOST_SCANNED}")


def _near(transaction: Transaction, searched: Searched, query: Matrix, n_wanted: int) -> set[int]:
    """Return the corpus's contents that the index finds nearest to a query; fewer if the scan ends before."""
    length = float(np.linalg.norm(query.astype(np.float64)))
    if not np.isfinite(length) or length == 0:
        return set()
    indexed = pgvector_index.side_table(searched.spec_id)
    # OFFSET 0: one look-up for each vector, instead of a join that needs all of them first.
    in_corpus = _that_read(searched, indexed).offset(0).exists()
    distance = text(f"{indexed.name}.embedding <=> CAST(:query AS halfvec)")
    n_rows = n_wanted * (WINDOWS if searched.keeps_windows else 1)
    nearest = select(indexed.c.content_id).where(in_corpus).order_by(distance).limit(n_rows)
    numbers = f"[{','.join(f'{number:.6g}' for number in (query / length).tolist())}]"
    return {*transaction.scalars(nearest, {"query": numbers})}


def _documents(transaction: Transaction, searched: Searched, contents: Collection[int], top: int) -> dict[int, int]:
    """Return the documents whose embedded content is one of these; for each content the first in the source."""
    wanted = func.unnest(literal([*contents], ARRAY(OutcomeRow.content_id.type))).table_valued("content_id")
    each = wanted.render_derived(name="wanted")
    first = _that_read(searched, each).order_by("seq", "id").limit(top)
    of_each = first.lateral("found")
    query = select(of_each.c.id, of_each.c.seq, each.c.content_id).select_from(each).join(of_each, true())
    rows = transaction.execute(query).all()
    return {row.id: row.content_id for row in sorted(rows, key=lambda row: (row.seq, row.id))}


def _that_read(searched: Searched, contents: FromClause) -> Select[int, int]:
    """Select the current documents of the corpus that the steps of the search lead to a row's `content_id`.

    The steps are followed backwards with OFFSET 0, so that each is a look-up by one index, whatever statistics
    PostgreSQL has. Else it may scan the corpus for every content.
    """
    way: FromClause | None = None
    content = contents.c.content_id
    conditions: list[ColumnElement[bool]] = []
    prompts: list[FromClause] = []
    for place, step in reversed([*enumerate(searched.way)]):
        if step.template is not None:
            rendered = select(Prompt.document_id, Prompt.text_id, Prompt.spec_id).where(Prompt.content_id == content)
            prompt = rendered.correlate(contents).offset(0).lateral()
            conditions.append(prompt.c.spec_id == step.spec_id)
            prompts.append(prompt)
            way = prompt if way is None else way.join(prompt, true())
            contents, content = prompt, prompt.c.text_id
        if place:
            compared = () if step.flagged is None else compared_by(step.flagged)
            columns = (OutcomeRow.content_id, OutcomeRow.spec_id, *compared)
            put_out = select(*columns).where(OutcomeRow.output_id == content)
            before = put_out.correlate(contents).offset(0).lateral()
            way = before if way is None else way.join(before, true())
            way, is_result = _that_is_result(way, before, searched.way[place - 1])
            conditions.append(is_result)
            if step.flagged is not None:
                conditions.append(selects(step.flagged, before))
            contents, content = before, before.c.content_id
    having_it = select(*_DOCUMENT).where(Document.content_id == content)
    if prompts:
        having_it = having_it.where(*(Document.id == prompt.c.document_id for prompt in prompts))
    document = having_it.correlate(contents, *prompts).offset(0).lateral()
    if (name := searched.way[0].leaves_out) is not None:
        conditions.append(is_read(name, document))
    return (
        select(document.c.id, document.c.seq)
        .select_from(document if way is None else way.join(document, true()))
        .where(document.c.corpus_id == searched.corpus_id, is_current_document(document), *conditions)
    )


def _that_is_result(way: FromClause, outcome: FromClause, step: OpenStep) -> tuple[FromClause, ColumnElement[bool]]:
    """Return the condition for an outcome to be the result of its content at a step, and the way with its tables."""
    if step.escalation is None:
        return way, outcome.c.spec_id == step.spec_id
    numbers = choosing.numbers_of(step.escalation.doubt)
    columns = choosing.with_columns((OutcomeRow.status, OutcomeRow.flags), numbers)
    of_content = select(*columns).where(OutcomeRow.content_id == outcome.c.content_id).correlate(outcome).offset(0)
    first, second = (of_content.where(OutcomeRow.spec_id == spec_id).lateral() for spec_id in step.spec_ids)
    way = way.join(first, true()).join(second, true(), isouter=True)
    return way, outcome.c.spec_id == choosing.spec_of_result(step, first, second)


_DOCUMENT = (Document.id, Document.seq, Document.corpus_id, Document.superseded_by, Document.gone)


@dataclass(frozen=True)
class Searched:
    """The current documents of a corpus, searched by their vectors under one spec.

    `job_id` is the job with the spec, and `way` are the steps from the documents to it. `others` are the corpus's
    other embed jobs, one for each spec.
    """

    corpus_id: int
    n_documents: int
    job_id: int
    way: tuple[OpenStep, ...]
    spec: Spec
    others: tuple[str, ...]

    @property
    def spec_id(self) -> int:
        return self.way[-1].spec_id

    @property
    def keeps_windows(self) -> bool:
        """True if there is a vector for each window of a text."""
        return keeps_windows(self.spec.params)
