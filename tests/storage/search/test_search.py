"""Exact search finds the nearest documents of a corpus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Outcome, Status
from docmill.storage.deletion import removal
from docmill.storage.errors import NotFound, NothingEmbedded
from docmill.storage.leases.shards import Claim
from docmill.storage.search import search as searching
from docmill.storage.search.knn import Matrix
from docmill.storage.search.search import choose, hits, search
from docmill.storage.steps.steps import StepRequest
from tests.storage.builders import (
    EMBED,
    TRANSLATE,
    Text,
    by_text,
    failed,
    numbered,
    read,
    request,
    run_job,
    shard,
    store_short_vector,
)
from tests.storage.indexes import search_hits

ALL_WINDOWS = replace(EMBED, params={"windows": "all"})
DIM = 6


def vector_of(text: str) -> Matrix:
    """Return a random vector, always the same for a text."""
    seed = [ord(character) for character in text]
    return np.random.default_rng(seed).standard_normal(DIM).astype("<f4")


def embedded(claim: Claim) -> list[Outcome]:
    """Return the vector of each text of a claim."""
    return [Outcome(content_id, Status.DONE, vector=vector_of(text).tobytes()) for content_id, text in claim.texts]


def embed(database: Database, texts: Sequence[Text], source: str = "a.jsonl", corpus: str = "books") -> None:
    """Run a job that embeds texts."""
    run_job(database, request(source, corpus=corpus, spec=EMBED), texts, embedded)


def sort_keys(texts: Sequence[Text], query: Matrix) -> list[str]:
    """Return the keys in the order of their cosines, those with the same text in the order of the source."""
    return [key for key, text in sorted(texts, key=lambda pair: -round(_cosine(query, vector_of(pair[1])), 5))]


@pytest.mark.parametrize("block", [1, 7, 50, 51, 4_096])
def test_blocks_of_any_size_give_the_nearest_of_all_documents(
    database: Database, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(searching, "BLOCK", block)
    texts = [(f"k{i}", f"text {i % 31}") for i in range(50)]
    embed(database, texts)
    query = vector_of("what is asked")
    progress: list[tuple[int, int]] = []
    best = search(database, choose(database, ["books"]), query[None], 20, lambda *counts: progress.append(counts))
    answers = hits(database, choose(database, ["books"]), query, best.ids[0].tolist(), best.scores[0].tolist())
    assert [hit.id for hit in answers] == sort_keys(texts, query)[:20]
    assert progress[-1] == (50, 50)
    first = answers[0]
    assert (first.text, first.meta, first.window) == (dict(texts)[first.id], {"n": len(first.text)}, None)


def test_documents_of_one_text_are_hits_of_one_score_in_the_order_of_the_source(database: Database) -> None:
    embed(database, [("z", "same"), *numbered(20), ("a", "same")])
    answers = search_hits(database, choose(database, ["books"]), vector_of("same"), 3)
    assert [hit.id for hit in answers[:2]] == ["z", "a"]
    assert answers[0].score == answers[1].score == 1.0
    assert [hit.id for hit in search_hits(database, choose(database, ["books"]), vector_of("same"), 1)] == ["z"]


def test_only_current_documents_of_the_corpus_are_found(database: Database) -> None:
    embed(database, [("a", "one"), ("b", "two")])
    embed(database, [("a", "uno")], "b.jsonl")
    embed(database, [("c", "one")], corpus="other")
    searched, query = choose(database, ["books"]), vector_of("one")
    best = search(database, searched, query[None], 5)
    read_hits = partial(hits, database, searched, query, best.ids[0].tolist(), best.scores[0].tolist())
    assert {(hit.id, hit.text) for hit in read_hits()} == {("a", "uno"), ("b", "two")}
    removal.remove_documents(database, "books", ["b"])
    assert [hit.id for hit in read_hits()] == ["a"], "the other was removed after it was found"


def test_documents_without_a_vector_are_counted_and_not_found(database: Database) -> None:
    run_job(database, request(spec=EMBED), numbered(10), lambda claim: [*embedded(claim)[2:], *failed(claim)[:2]])
    progress: list[tuple[int, int]] = []
    best = search(
        database, choose(database, ["books"]), vector_of("x")[None], 20, lambda *counts: progress.append(counts)
    )
    assert progress == [(10, 8)]
    assert best.ids.shape == (1, 8)


def test_vectors_of_another_length_are_refused(database: Database) -> None:
    embed(database, numbered(3))
    searched = choose(database, ["books"])
    with pytest.raises(NothingEmbedded, match=r"have 6 numbers, and others 4: .* --revision"):
        search(database, searched, np.ones((1, 4), "<f4"), 10)
    store_short_vector(database)
    with pytest.raises(NothingEmbedded, match=r"have 6 numbers, and others 2: .* --revision"):
        search(database, searched, np.ones((1, DIM), "<f4"), 10)


@pytest.mark.parametrize("block", [2, 4_096])
def test_documents_are_as_near_as_their_best_windows(
    database: Database, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(searching, "BLOCK", block)

    texts = [("a", "red green blue"), ("b", "grey"), ("c", "black white"), ("d", "green")]
    run_job(database, request(spec=ALL_WINDOWS), texts, windowed)
    answers = search_hits(database, choose(database, ["books"]), vector_of("green"))
    assert [(hit.id, hit.window, hit.score) for hit in answers[:2]] == [("a", (4, 9), 1.0), ("d", (0, 5), 1.0)]
    for hit in answers:
        assert hit.window is not None
        best = max(hit.text.split(), key=lambda word: float(_cosine(vector_of("green"), vector_of(word))))
        assert hit.text[slice(*hit.window)] == best
        assert hit.score == pytest.approx(_cosine(vector_of("green"), vector_of(best)), abs=1e-5)


def _cosine(first: Matrix, second: Matrix) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def windowed(claim: Claim) -> list[Outcome]:
    """Return the vectors of each text of a claim, in which every word is a window."""
    return [_embed_words(content_id, text) for content_id, text in claim.texts]


def _embed_words(content_id: int, text: str) -> Outcome:
    windows, start = [], 0
    for word in text.split():
        windows.append([start, start + len(word)])
        start += len(word) + 1
    vectors = np.stack([vector_of(text[slice(*window)]) for window in windows])
    return Outcome(content_id, Status.DONE, vector=vectors.tobytes(), data={"dim": DIM, "windows": windows})


def test_the_vectors_of_the_latest_embed_job_are_searched_unless_another_job_is_named(database: Database) -> None:
    embed(database, numbered(3))
    run_job(database, request(spec=ALL_WINDOWS), numbered(3), windowed)
    read(database, request(spec=TRANSLATE), numbered(3))
    latest = choose(database, ["books"])
    assert (latest.job_id, latest.spec) == (2, ALL_WINDOWS)
    assert latest.others == (f"job 1, {EMBED}",)
    assert (choose(database, ["books"], 1).spec, choose(database, ["nothing", "books"], 1).job_id) == (EMBED, 1)
    with pytest.raises(
        NothingEmbedded, match=r"job 3 embeds nothing of the corpus books; those that do: job 2, .*; "
    ):
        choose(database, ["books"], 3)


@pytest.mark.parametrize(
    ("prepare", "error", "says"),
    [
        (lambda _: None, NotFound, "there is no corpus books; `docmill run embed SOURCE` makes one"),
        (lambda database: embed(database, [], corpus="films"), NotFound, "no corpus books; there are: films"),
        (lambda database: embed(database, [], corpus="python 9d07d54f"), NotFound, "no corpus books; `docmill run"),
        (
            lambda database: embed(database, [], corpus="books (first 4)"),
            NotFound,
            r"no corpus books; the corpus that --limit made of it is named 'books \(first 4\)'",
        ),
        (lambda database: read(database, request(spec=TRANSLATE), []), NothingEmbedded, "no job embeds the corpus"),
        (lambda database: read(database, request(spec=EMBED), numbered(3)), NothingEmbedded, "docmill status 1"),
    ],
)
def test_a_corpus_that_cannot_be_searched_is_an_error_that_says_what_to_do(
    database: Database, prepare: Callable[[Database], object], error: type[Exception], says: str
) -> None:
    prepare(database)
    with pytest.raises(error, match=says):
        choose(database, ["books"])


def test_a_step_that_embeds_the_output_of_another_is_searched_by_that_output(database: Database) -> None:
    steps = (StepRequest("english", TRANSLATE), StepRequest("meaning", EMBED, "english"))
    texts = [(f"k{i}", f"text {i % 7}") for i in range(20)]

    def outcomes(claim: Claim) -> list[Outcome]:
        if shard(database, claim.shard_id).lane == "embed":
            return embedded(claim)
        return by_text(lambda text: None if text == "text 3" else {"text": f"<{text}>"})(claim)

    run_job(database, request(steps=steps), texts, outcomes)
    query = vector_of("a query")
    answers = search_hits(database, choose(database, ["books"]), query, top=30)
    english = [(key, f"<{text}>") for key, text in texts if text != "text 3"]
    assert [hit.id for hit in answers] == sort_keys(english, query)
    assert {hit.id: hit.text for hit in answers} == dict(english)
