"""Clusters of near duplicates: complete, stable, and brought up to date by comparing only what is new."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from sqlalchemy import insert, select, update
from sqlalchemy import text as sql

from docmill.features.near_duplicates import clusters, report, vectors
from docmill.features.near_duplicates.clusters import SearchWork
from docmill.features.near_duplicates.methods import ByText, ByVectors, Method, from_json, to_json
from docmill.features.near_duplicates.tables import Deduplication, Signature, is_repeat
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Document, ReplacementRow
from docmill.storage.core.specs import Outcome, Reason, Status
from docmill.storage.deletion import gc, needed, removal
from docmill.storage.deletion.paging import Removed
from docmill.storage.errors import NothingEmbedded, StorageError
from docmill.storage.leases.shards import Claim
from docmill.storage.steps import jobs
from docmill.storage.steps.replacements import UNDONE
from docmill.storage.steps.steps import StepRequest
from tests.features.near_duplicates import planted
from tests.storage.aging import days_pass
from tests.storage.builders import (
    COPY,
    EMBED,
    Text,
    count_rows,
    embedded,
    finish,
    migrate,
    numbered,
    read,
    request,
    work,
)
from tests.storage.deletion.test_aged_results import LIMIT_S, run, spec, spec_id

BASE = "one two three four five six seven eight nine ten eleven twelve"
WORDS = ByText(0.6, size=1)


def run_of(first: int, last: int) -> str:
    """Return a text of numbers: two overlapping runs are as similar as they overlap."""
    return " ".join(f"w{n}" for n in range(first, last))


def find(database: Database, texts: Sequence[Text], method: Method = WORDS, source: str = "a") -> SearchWork:
    job = read(database, request(source), texts)
    return clusters.find(database, job.corpus_id, method)


def read_firsts(database: Database, *, after_removal: bool = False) -> dict[str, str]:
    """Return the first document of each document in a cluster, as the view has it.

    After a removal, the view still counts the documents that the last search found.
    """
    with database.read() as transaction:
        rows = transaction.execute(sql("SELECT id, first, is_first, documents FROM near_duplicates")).all()
    assert all(bool(row.is_first) is (row.id == row.first) for row in rows)
    sizes = Counter(row.first for row in rows)
    assert after_removal or all(row.documents == sizes[row.first] for row in rows)
    return {row.id: row.first for row in rows}


def test_planted_near_duplicates_are_found_and_nothing_else(database: Database) -> None:
    texts, method = planted.corpus(25), ByText()
    pairs = [*planted.find_similar(texts, method)]
    search = find(database, texts, method)
    of = read_firsts(database)
    together = [pair for pair in pairs if of.get(pair[0], "") == of.get(pair[1])]
    assert len(pairs) > 30
    assert len(together) / len(pairs) >= 0.95
    planted_clusters = {key: members for members in planted.find_clusters(texts, pairs) for key in members}
    for key, first in of.items():  # a part of a true cluster at most
        assert first in planted_clusters[key]
    assert search.compared < len(texts) ** 2 / 20


def test_a_chain_is_one_cluster_and_the_first_is_the_one_that_came_first(database: Database) -> None:
    texts = [("b", run_of(4, 20)), ("x", "quite another text"), ("a", run_of(0, 16)), ("c", run_of(8, 24))]
    find(database, texts)
    assert read_firsts(database) == {"a": "b", "b": "b", "c": "b"}  # a and c are alike by b alone


def test_documents_with_one_text_are_near_duplicates_and_texts_without_words_are_not(database: Database) -> None:
    find(database, [("a", "…"), ("b", "…"), ("c", "?!"), ("d", "same"), ("e", "SAME!"), ("f", "other")])
    assert read_firsts(database) == {"a": "a", "b": "a", "d": "d", "e": "d"}


def test_a_grown_corpus_compares_new_texts_only_and_keeps_the_firsts(database: Database) -> None:
    old = [("a", run_of(0, 16)), ("b", run_of(2, 18)), ("c", run_of(40, 60))]
    assert find(database, old).new == 3
    assert find(database, old) == SearchWork(3, 0, 0, 1, 0)
    search = find(database, [("d", run_of(1, 17)), ("e", run_of(41, 60)), *old])
    assert (search.new, search.documents, search.repeats) == (2, 5, 3)
    assert read_firsts(database) == {"a": "a", "b": "a", "d": "a", "c": "c", "e": "c"}


def test_a_new_text_may_join_two_clusters_and_the_earlier_first_stays(database: Database) -> None:
    old = [("c", run_of(8, 24)), ("d", run_of(8, 25)), ("a", run_of(0, 16)), ("b", run_of(0, 17))]
    find(database, old)
    assert read_firsts(database) == {"c": "c", "d": "c", "a": "a", "b": "a"}
    find(database, [*old, ("link", run_of(4, 20))])
    assert set(read_firsts(database).values()) == {"c"}


def test_the_last_search_goes_on_with_the_vectors_of_the_model_to_which_the_corpus_was_migrated(
    database: Database,
) -> None:
    texts = [("a", "one"), ("b", "two")]
    corpus_id = read(database, request(spec=EMBED), texts).corpus_id
    finish(database, embedded)
    clusters.find(database, corpus_id, ByVectors(0.9, spec_id(database, EMBED.model)))
    assert read_firsts(database) == dict.fromkeys("ab", "a")
    new = replace(EMBED, model="e5")
    read(database, request(spec=new), [*texts, ("c", "three")])
    finish(database, embedded)
    migration = migrate(database, corpus_id, EMBED, new)
    clusters.FILTER.update(database, corpus_id, lambda _: None)
    assert read_firsts(database) == dict.fromkeys("abc", "a")
    assert clusters.read_method(database, corpus_id) == ByVectors(0.9, spec_id(database, "e5"))
    database.execute(update(ReplacementRow).where(ReplacementRow.id == migration).values(state=UNDONE))
    clusters.FILTER.update(database, corpus_id, lambda _: None)
    assert read_firsts(database) == dict.fromkeys("ab", "a")


def test_when_the_first_leaves_the_next_one_is_first_and_a_lost_link_divides_a_cluster(database: Database) -> None:
    texts = [("a", run_of(0, 16)), ("b", run_of(4, 20)), ("c", run_of(8, 24)), ("d", run_of(9, 24))]
    find(database, texts)
    assert read_firsts(database) == dict.fromkeys("abcd", "a")
    finish(database)
    removal.remove_documents(database, "books", ["a"])
    assert find(database, texts[1:]).new == 3
    assert read_firsts(database) == dict.fromkeys("bcd", "b")
    find(database, [("b", "it has another text now"), *texts[2:]])
    assert read_firsts(database) == {"c": "c", "d": "c"}


def test_clusters_do_not_depend_on_the_order_of_the_work(database: Database) -> None:
    chance = random.Random(1)
    texts = [(f"k{n}", run_of(first := chance.randrange(60), first + 12)) for n in range(24)]
    for n in (6, 13, 24):
        texts[chance.randrange(n)] = (f"k{chance.randrange(n)}", run_of(chance.randrange(60), 72))
        unique = dict(texts[:n])
        find(database, [*unique.items()])
    now = dict(texts)
    before = read_firsts(database)
    last = clusters.find(database, 1, ByText(0.61, size=1))
    assert last.new == last.documents >= len(now)
    clusters.find(database, 1, WORDS)
    assert read_firsts(database) == before


def test_other_options_begin_anew_and_the_last_ones_are_known(database: Database) -> None:
    texts = [("a", run_of(0, 16)), ("b", run_of(4, 20))]
    find(database, texts)
    assert clusters.read_method(database, 1) == WORDS
    assert clusters.find(database, 1, ByText(0.9, "characters", 5)).new == 2
    assert read_firsts(database) == {}
    method = clusters.read_method(database, 1)
    assert method is not None
    assert from_json(to_json(method)) == method == ByText(0.9, "characters", 5)
    assert clusters.forget(database, 1) == 0
    assert clusters.read_method(database, 1) is None


def test_signatures_are_made_once_and_go_with_their_texts(database: Database) -> None:
    find(database, [("a", BASE), ("b", BASE + " more"), ("c", BASE)])
    assert count_rows(database, Signature) == 2
    clusters.forget(database, 1)
    assert clusters.find(database, 1, WORDS).new == 3
    assert count_rows(database, Signature) == 2
    finish(database)
    removal.remove_corpus(database, "books")
    gc.collect(database)
    assert count_rows(database, Signature) == 0
    assert read_firsts(database) == {}


def test_a_search_that_was_killed_is_complete_and_correct_the_next_time(database: Database) -> None:
    def killed(phase: str, done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    read(database, request(), planted.corpus(8))
    with pytest.raises(KeyboardInterrupt):
        clusters.find(database, 1, ByText(), killed)
    assert count_rows(database, Signature) > 0
    assert read_firsts(database) == {}
    clusters.find(database, 1, ByText())
    complete = read_firsts(database)
    assert complete
    clusters.forget(database, 1)
    clusters.find(database, 1, ByText())
    assert read_firsts(database) == complete


@pytest.mark.parametrize("when", ["signing texts", "comparing"])
def test_a_document_that_leaves_while_others_are_compared_is_in_no_cluster(database: Database, when: str) -> None:
    texts = [("a", run_of(0, 16)), ("b", run_of(0, 16) + " x"), ("c", run_of(0, 16) + " y")]
    read(database, request(), texts)
    gone = iter([True])

    def advanced(phase: str, done: int, total: int) -> None:
        if (phase, done) == (when, total) and next(gone, False):
            finish(database)
            removal.remove_documents(database, "books", ["a"])

    clusters.find(database, 1, WORDS, advanced)
    assert read_firsts(database, after_removal=True) == {"b": "b", "c": "b"}
    clusters.find(database, 1, WORDS)
    assert read_firsts(database) == {"b": "b", "c": "b"}


def test_the_report_says_what_later_steps_save(database: Database) -> None:
    texts = [("a", run_of(0, 16)), ("b", run_of(0, 16)), ("c", run_of(1, 16)), ("d", "other")]
    read(database, request(), texts)
    with pytest.raises(StorageError, match="docmill dedup find books"):
        report.summarize(database, 1, "books")
    clusters.find(database, 1, WORDS)
    read(database, request("b"), [("new", "came later")])
    counts = report.summarize(database, 1, "books")
    assert (counts.documents, counts.new, counts.clusters, counts.in_clusters, counts.repeats) == (5, 1, 1, 3, 2)
    assert (counts.texts, counts.repeated_texts, counts.repeated_chars) == (4, 1, len(run_of(1, 16)))
    [sample] = report.read_samples(database, 1, 5, 2)
    assert sample == (3, [("a", run_of(0, 16)), ("b", run_of(0, 16))])
    assert [row["id"] for row in report.read_members(database, 1)] == ["a", "b", "c"]


VECTORS = {"a": (1, 0, 0), "b": (0.99, 0.14, 0), "c": (0, 3, 0), "d": (0.97, 0.26, 0), "e": (0, 0, 0), "f": (0, 0, 0)}


def embed(database: Database, n: int, windows: str = "mean") -> None:
    spec = EMBED if windows == "mean" else replace(EMBED, params={"windows": windows})
    read(database, request(f"{windows}{n}", spec=spec), [(key, key) for key in [*VECTORS][:n]])
    work(database, write_vectors)


def write_vectors(claim: Claim, fails: str = "") -> list[Outcome]:
    """Return the vectors of `VECTORS`. The text f is skipped, and one text may fail."""
    outcomes = []
    for content_id, text in claim.texts:
        if text == fails:
            outcomes.append(Outcome(content_id, Status.FAILED, reason="gone", reason_class=Reason.TRANSIENT))
        elif text == "f":
            outcomes.append(Outcome(content_id, Status.SKIPPED, reason="it is blank"))
        else:
            vector = np.array(VECTORS[text], "<f4").tobytes()
            outcomes.append(Outcome(content_id, Status.DONE, vector=vector))
    return outcomes


def test_vectors_are_compared_by_their_cosines(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docmill.features.near_duplicates.vectors.BLOCK", 2)
    monkeypatch.setattr("docmill.features.near_duplicates.vectors.KEPT_NUMBERS", 6)
    embed(database, 3)
    method = vectors.choose_method(database, "books", None, 0.98)
    search = clusters.find(database, 1, method)
    assert (search.new, search.compared, search.without_vector) == (3, 3, 0)
    assert read_firsts(database) == {"a": "a", "b": "a"}
    embed(database, 6)
    again = clusters.find(database, 1, method)
    assert (again.new, again.compared, again.without_vector) == (2, 7, 1)  # f has none, and will have none
    assert read_firsts(database) == {"a": "a", "b": "a", "d": "a"}  # d is near b, not a
    assert clusters.find(database, 1, method).compared == 0
    read(database, request("late", spec=COPY), [("late", "late")])  # it may get a vector
    assert clusters.find(database, 1, method).without_vector == 2
    assert from_json(to_json(method)) == method


def test_a_vector_that_came_by_a_retry_is_compared(database: Database) -> None:
    job = read(database, request("one", spec=EMBED), [("a", "a"), ("b", "b"), ("c", "c")])
    work(database, partial(write_vectors, fails="a"))
    method = vectors.choose_method(database, "books", None, 0.98)
    assert clusters.find(database, 1, method).without_vector == 1
    assert read_firsts(database) == {}
    assert jobs.retry(database, job.id) == 1
    work(database, write_vectors)
    search = clusters.find(database, 1, method)
    assert (search.new, search.compared) == (1, 2)
    assert read_firsts(database) == {"a": "a", "b": "a"}
    assert clusters.find(database, 1, method).new == 0


def test_a_changed_first_gives_way_even_if_the_job_that_made_the_vectors_was_removed(database: Database) -> None:
    embed(database, 3)
    clusters.find(database, 1, vectors.choose_method(database, "books", None, 0.98))
    no_job = to_json(ByVectors(0.98, 99))
    database.execute(update(Deduplication).values(method=no_job))
    read(database, request("mean3"), [("a", "it has another text now"), ("b", "b"), ("c", "c")])
    assert clusters.FILTER.update(database, 1, lambda _: None) is None
    with database.read() as transaction:
        assert [*transaction.scalars(select(Document.key).where(is_repeat()))] == []


def test_repeats_keep_their_vectors_if_the_latest_job_leaves_repeats_out(database: Database) -> None:
    embed(database, 3)
    method = vectors.choose_method(database, "books", None, 0.98)
    clusters.find(database, 1, method)
    leaving_out = (StepRequest("embed", EMBED, leaves_out="near-duplicates"),)
    read(database, replace(request(), steps=leaving_out), [(key, key) for key in [*VECTORS][:3]])
    assert clusters.find(database, 1, method).without_vector == 0
    assert read_firsts(database) == {"a": "a", "b": "a"}


def test_vectors_are_compared_once_even_if_an_earlier_document_has_none(database: Database) -> None:
    texts = [("a", BASE), ("b", BASE + " more"), ("c", "other")]
    find(database, texts)
    leaving_out = (StepRequest("embed", EMBED, leaves_out="near-duplicates"),)
    read(database, replace(request(), steps=leaving_out), texts)
    finish(database, embedded)
    method = vectors.choose_method(database, "books", None)
    assert clusters.find(database, 1, method).without_vector == 1
    assert report.summarize(database, 1, "books").new == clusters.find(database, 1, method).new == 0
    read(database, request(spec=EMBED), texts)
    finish(database, embedded)
    assert [clusters.find(database, 1, method).new for _ in range(2)] == [1, 0]


def test_a_job_is_compared_by_its_own_vectors_even_if_a_later_one_embeds_summaries(database: Database) -> None:
    embed(database, 3)
    method = vectors.choose_method(database, "books", 1, 0.98)
    clusters.find(database, 1, method)
    summaries = (StepRequest("copy", COPY), StepRequest("embed", EMBED, "copy"))
    read(database, replace(request("b"), steps=summaries), [])
    assert clusters.find(database, 1, method).without_vector == 0
    assert clusters.find(database, 1, replace(method, job=2)).without_vector == 3
    embed(database, 2)
    assert clusters.find(database, 1, method).new == 3
    assert (
        clusters.find(database, 1, vectors.choose_method(database, "books", None, 0.98)).new == 0
    )  # the same vectors


def test_equal_vectors_have_a_cosine_of_1(database: Database) -> None:
    read(database, request(spec=EMBED), numbered(3))
    vector = np.random.default_rng(1).normal(size=384).astype("<f4").tobytes()
    finish(database, lambda claim: [replace(outcome, vector=vector) for outcome in embedded(claim)])
    assert clusters.find(database, 1, vectors.choose_method(database, "books", None, 1.0)).repeats == 2


def test_vectors_of_windows_and_corpora_without_vectors_are_refused(database: Database) -> None:
    read(database, request(), [("a", "a")])
    with pytest.raises(NothingEmbedded, match="no job embeds"):
        vectors.choose_method(database, "books", None)
    embed(database, 2, windows="all")
    with pytest.raises(NothingEmbedded, match="--window-vectors mean"):
        vectors.choose_method(database, "books", None)


def test_vectors_that_a_search_for_near_duplicates_compares_stay(database: Database) -> None:
    for model in ("compared", "last"):
        run(database, spec("embed", model))
    method = to_json(ByVectors(0.9, spec_id(database, "compared")))
    values = {"corpus_id": 1, "method": method, "compared_to": 3, "finished_at": 1.0}
    database.execute(insert(Deduplication).values(**values))
    days_pass(database, 30)
    assert needed.drop_unneeded(database, LIMIT_S) == Removed()
