"""An index of vectors changes the cost of a search and not its results, on a PostgreSQL with pgvector."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Outcome, Spec, Status
from docmill.storage.leases.shards import Claim
from docmill.storage.search import ann, pgvector_index
from docmill.storage.search.ann import is_worth_it
from docmill.storage.steps.conditions import Flagged
from docmill.storage.steps.steps import EscalationRequest, StepRequest
from tests.storage.builders import EMBED, TRANSLATE, by_text, numbered, request, run_job, shard
from tests.storage.indexes import (
    count_indexed,
    database,
    make_index,
    search_both_ways,
    search_hits,
    uses_index,
    whatever_it_costs,
)
from tests.storage.search.test_search import ALL_WINDOWS, DIM, embed, embedded, vector_of, windowed

__all__ = ["database", "whatever_it_costs"]


def test_a_search_by_the_index_finds_what_one_without_it_finds_and_later_vectors_before_they_are_added(
    database: Database,
) -> None:
    embed(database, [(f"k{i}", f"text {i % 150}") for i in range(200)])
    searched = make_index(database)
    for query in ("what is asked", "text 7", "text 149"):
        search_both_ways(database, searched, vector_of(query), 20)
    [described] = pgvector_index.list_indexes(database)
    assert (described.spec, described.vectors, described.lacking, described.ready) == (EMBED, 150, 0, True)
    embed(database, [("new", "something else")], "b.jsonl")
    assert search_both_ways(database, searched, vector_of("something else"))[0].id == "new"
    assert pgvector_index.list_indexes(database)[0].lacking == 1
    assert pgvector_index.add(database, searched.spec_id) == 1
    assert pgvector_index.add(database, searched.spec_id) == 0
    assert (count_indexed(database), pgvector_index.list_indexes(database)[0].lacking) == (151, 0)
    assert search_both_ways(database, searched, vector_of("something else"))[0].id == "new"


def test_an_index_that_lacks_many_vectors_is_not_used(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ann, "MOST_LACKING", 10)
    embed(database, numbered(60))
    searched = make_index(database)
    embed(database, numbered(11, first=100), "b.jsonl")
    query = vector_of("text 110")
    assert not uses_index(database, searched, query)
    assert search_hits(database, searched, query)[0].id == "k110"
    pgvector_index.add(database, searched.spec_id)
    assert search_both_ways(database, searched, query)[0].id == "k110"


def test_skipped_texts_are_not_missing_and_vectors_of_length_0_are_compared(database: Database) -> None:
    def outcomes(claim: Claim) -> list[Outcome]:
        blank, zero, *others = embedded(claim)
        skipped = Outcome(blank.content_id, Status.SKIPPED, reason="blank")
        return [skipped, replace(zero, vector=np.zeros(DIM, "<f4").tobytes()), *others]

    run_job(database, request(spec=EMBED), numbered(9), outcomes)
    searched = make_index(database)
    assert (count_indexed(database), pgvector_index.list_indexes(database)[0].lacking) == (7, 1)
    query = vector_of("x")
    # The index proposes all others, and those with a negative cosine come after the vector of length 0.
    assert len(ann.propose(database, searched, query[None], 3) or []) >= 7
    assert search_hits(database, searched, query, 3) == search_hits(database, searched, query, 3, exact=True)
    assert not uses_index(database, searched, np.zeros(DIM, np.float32), 3)


def test_a_corpus_that_is_a_small_part_of_a_spec_is_searched_completely(database: Database) -> None:
    embed(database, numbered(3_000), "a.jsonl", corpus="films")
    embed(database, numbered(30, first=2_990))
    searched = make_index(database)
    for query in ("text 2995", "text 3010", "what is asked"):
        search_both_ways(database, searched, vector_of(query))


@pytest.mark.long
def test_everything_is_compared_if_an_index_returns_too_few(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(database, numbered(8))
    searched = make_index(database)
    assert not uses_index(database, searched, vector_of("text 1"), 5)
    assert search_hits(database, searched, vector_of("text 1"), 5)[0].id == "k1"
    embed(database, numbered(3_000), "a.jsonl", corpus="films")
    pgvector_index.add(database, searched.spec_id)
    monkeypatch.setattr(ann, "MOST_SCANNED", 300)
    assert not uses_index(database, searched, vector_of("text 1"), 3)
    assert search_hits(database, searched, vector_of("text 1"), 3)[0].id == "k1"


def test_the_index_has_each_kept_window(database: Database) -> None:
    texts = [(f"k{i}", " ".join(f"word{j}" for j in range(i, i + 4))) for i in range(50)]
    run_job(database, request(spec=ALL_WINDOWS), texts, windowed)
    searched = make_index(database)
    assert count_indexed(database) == 200
    answers = search_both_ways(database, searched, vector_of("word20"), 4)
    assert [hit.id for hit in answers] == ["k17", "k18", "k19", "k20"]
    assert [hit.window for hit in answers] == [(21, 27), (14, 20), (7, 13), (0, 6)]


ENGLISH, MEANING = StepRequest("english", TRANSLATE), StepRequest("meaning", EMBED, "english")
LINE = StepRequest("line", Spec("summarize", "synopsis", "sha256:3"), "english")
BETTER = EscalationRequest(Spec("translate", "large", "sha256:4"))


@pytest.mark.parametrize(
    ("later", "query", "nearest"),
    [
        ((ENGLISH, LINE, replace(MEANING, input="line")), "1 7", ["doubted", "k7"]),
        ((replace(ENGLISH, escalation=BETTER), MEANING), "2 7", ["doubted"]),
        ((replace(ENGLISH, escalation=BETTER), MEANING), "0 7", ["k7"]),
        ((ENGLISH, replace(MEANING, flagged=Flagged(lacking=True))), "0 7", ["k7"]),
        ((ENGLISH, replace(MEANING, flagged=Flagged.parse(["confidence>0.5"]))), "0 7", ["k7"]),
    ],
)
def test_documents_are_found_by_the_text_that_was_embedded(
    database: Database, later: tuple[StepRequest, ...], query: str, nearest: list[str]
) -> None:
    def outcomes(claim: Claim) -> list[Outcome]:
        head = shard(database, claim.shard_id)
        if head.lane == "embed":
            return embedded(claim)

        def output(text: str) -> dict[str, Any]:
            doubts = {"confidence": 0.1, "flags": ("empty",)} if text == "another 7" else {"confidence": 0.9}
            return {"text": f"{head.step}{text[-2:]}", **doubts}

        return by_text(output)(claim)

    for steps in ((ENGLISH, MEANING), later):  # so that outputs that the later job leaves out have vectors, too
        run_job(database, request(steps=steps), [("doubted", "another 7"), *numbered(60)], outcomes)
    answers = search_both_ways(database, make_index(database), vector_of(query), 4)
    assert [hit.id for hit in answers if hit.text == query] == nearest


@pytest.mark.parametrize(
    ("n_queries", "n_wanted", "n_documents", "n_indexed", "worth_it"),
    [
        (1, 20, 100_000, 100_000, True),
        (512, 20, 100_000, 100_000, True),
        (512, 20, 20_000, 20_000, False),  # many queries share one walk
        (1, 20, 100, 100, False),  # a small corpus
        (64, 20, 4_000, 100_000, False),  # a small part of what the spec embedded
        (1, 20, 50, 10_000_000, False),  # so small a part that the index would end too early
        (512, 2_000, 10_000_000, 10_000_000, False),  # more than may be in memory
        (1, 20, 0, 0, False),
    ],
)
def test_an_index_is_used_if_that_costs_less(
    n_queries: int, n_wanted: int, n_documents: int, n_indexed: int, worth_it: bool
) -> None:
    assert is_worth_it(n_queries, n_wanted, n_documents, n_indexed) is worth_it
