"""An index of vectors, on a PostgreSQL with pgvector, changes what a search costs and not what it finds."""

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
from docmill.storage.steps.jobs import JobRequest
from docmill.storage.steps.steps import EscalationRequest, StepRequest
from tests.storage.builders import EMBED, TRANSLATE, by_text, finish, numbered, read, request, shard, work
from tests.storage.indexes import agrees, database, found, index, proposed, rows, whatever_it_costs
from tests.storage.search.test_search import ALL_WINDOWS, DIM, embed, embedded, vector_of, windowed

__all__ = ["database", "whatever_it_costs"]


def test_a_search_by_the_index_finds_what_one_without_it_finds(database: Database) -> None:
    texts = [(f"k{i}", f"text {i % 150}") for i in range(200)]
    embed(database, texts)
    searched = index(database)
    for asked in ("what is asked", "text 7", "text 149"):
        agrees(database, searched, vector_of(asked), 20)
    [described] = pgvector_index.list_indexes(database)
    assert (described.spec, described.vectors, described.lacking, described.ready) == (EMBED, 150, 0, True)


def test_what_was_embedded_since_is_found_and_then_added(database: Database) -> None:
    embed(database, numbered(60))
    searched = index(database)
    embed(database, [("new", "something else")], "b.jsonl")
    assert agrees(database, searched, vector_of("something else"))[0].id == "new"
    assert pgvector_index.list_indexes(database)[0].lacking == 1
    assert pgvector_index.add(database, searched.spec_id) == 1
    assert pgvector_index.add(database, searched.spec_id) == 0
    assert (rows(database), pgvector_index.list_indexes(database)[0].lacking) == (61, 0)
    assert agrees(database, searched, vector_of("something else"))[0].id == "new"


def test_where_too_much_is_lacking_everything_is_compared(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ann, "MOST_LACKING", 10)
    embed(database, numbered(60))
    searched = index(database)
    embed(database, numbered(11, first=100), "b.jsonl")
    query = vector_of("text 110")
    assert not proposed(database, searched, query)
    assert found(database, searched, query)[0].id == "k110"
    pgvector_index.add(database, searched.spec_id)
    assert agrees(database, searched, query)[0].id == "k110"


def test_a_skipped_text_lacks_nothing_and_a_vector_without_a_direction_is_compared(database: Database) -> None:
    def outcomes(claim: Claim) -> list[Outcome]:
        blank, zero, *others = embedded(claim)
        skipped = Outcome(blank.content_id, Status.SKIPPED, reason="blank")
        return [skipped, replace(zero, vector=np.zeros(DIM, "<f4").tobytes()), *others]

    read(database, request(spec=EMBED), numbered(9))
    work(database, outcomes)
    searched = index(database)
    assert (rows(database), pgvector_index.list_indexes(database)[0].lacking) == (7, 1)
    query = vector_of("x")
    # All others are proposed, and those with a negative cosine stand behind it.
    assert len(ann.propose(database, searched, query[None], 3) or []) >= 7
    assert found(database, searched, query, 3) == found(database, searched, query, 3, exact=True)
    assert not proposed(database, searched, np.zeros(DIM, np.float32), 3)


def test_a_corpus_that_is_a_small_part_of_a_spec_is_searched_as_well(database: Database) -> None:
    embed(database, numbered(3_000), "a.jsonl", corpus="films")
    embed(database, numbered(30, first=2_990))
    searched = index(database)
    for asked in ("text 2995", "text 3010", "what is asked"):
        agrees(database, searched, vector_of(asked))


@pytest.mark.long
def test_where_the_index_ends_before_enough_was_found_everything_is_compared(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(database, numbered(8))
    searched = index(database)
    assert not proposed(database, searched, vector_of("text 1"), 5)
    assert found(database, searched, vector_of("text 1"), 5)[0].id == "k1"
    embed(database, numbered(3_000), "a.jsonl", corpus="films")
    pgvector_index.add(database, searched.spec_id)
    monkeypatch.setattr(ann, "MOST_SCANNED", 300)
    assert not proposed(database, searched, vector_of("text 1"), 3)
    assert found(database, searched, vector_of("text 1"), 3)[0].id == "k1"


def test_of_texts_whose_windows_are_kept_each_window_is_in_the_index(database: Database) -> None:
    texts = [(f"k{i}", " ".join(f"word{j}" for j in range(i, i + 4))) for i in range(50)]
    read(database, request(spec=ALL_WINDOWS), texts)
    work(database, lambda claim: [windowed(*text) for text in claim.texts])
    searched = index(database)
    assert rows(database) == 200
    answers = agrees(database, searched, vector_of("word20"), 4)
    assert [hit.id for hit in answers] == ["k17", "k18", "k19", "k20"]
    assert [hit.window for hit in answers] == [(21, 27), (14, 20), (7, 13), (0, 6)]


ENGLISH, MEANING = StepRequest("english", TRANSLATE), StepRequest("meaning", EMBED, "english")
LINE = StepRequest("line", Spec("summarize", "synopsis", "sha256:3"), "english")
BETTER = EscalationRequest(Spec("translate", "large", "sha256:4"))


@pytest.mark.parametrize(
    ("later", "asked", "nearest"),
    [
        ((ENGLISH, LINE, replace(MEANING, input="line")), "1 7", ["doubted", "k7"]),
        ((replace(ENGLISH, escalation=BETTER), MEANING), "2 7", ["doubted"]),
        ((replace(ENGLISH, escalation=BETTER), MEANING), "0 7", ["k7"]),
        ((ENGLISH, replace(MEANING, flagged=Flagged(lacking=True))), "0 7", ["k7"]),
        ((ENGLISH, replace(MEANING, flagged=Flagged.parse(["confidence>0.5"]))), "0 7", ["k7"]),
    ],
)
def test_documents_are_found_by_what_the_steps_before_the_vectors_put_out(
    database: Database, later: tuple[StepRequest, ...], asked: str, nearest: list[str]
) -> None:
    def outcomes(claim: Claim) -> list[Outcome]:
        head = shard(database, claim.shard_id)
        if head.lane == "embed":
            return embedded(claim)

        def output(text: str) -> dict[str, Any]:
            doubts = {"confidence": 0.1, "flags": ("empty",)} if text == "another 7" else {"confidence": 0.9}
            return {"text": f"{head.step}{text[-2:]}", **doubts}

        return by_text(output)(claim)

    for steps in ((ENGLISH, MEANING), later):  # so outputs that the later job leaves out have vectors, too
        read(database, JobRequest("books", "a.jsonl", steps), [("doubted", "another 7"), *numbered(60)])
        finish(database, outcomes)
    answers = agrees(database, index(database), vector_of(asked), 4)
    assert [hit.id for hit in answers if hit.text == asked] == nearest


@pytest.mark.parametrize(
    ("n_queries", "n_wanted", "n_documents", "n_indexed", "worth_it"),
    [
        (1, 20, 100_000, 100_000, True),
        (512, 20, 100_000, 100_000, True),
        (512, 20, 20_000, 20_000, False),  # many queries share one walk
        (1, 20, 100, 100, False),  # a small corpus
        (64, 20, 4_000, 100_000, False),  # a small part of what the spec embedded
        (1, 20, 50, 10_000_000, False),  # so small a part that the index would end before
        (512, 2_000, 10_000_000, 10_000_000, False),  # more than memory is to hold
        (1, 20, 0, 0, False),
    ],
)
def test_an_index_is_asked_where_that_costs_less(
    n_queries: int, n_wanted: int, n_documents: int, n_indexed: int, worth_it: bool
) -> None:
    assert is_worth_it(n_queries, n_wanted, n_documents, n_indexed) is worth_it
