"""Documents are selected for removal by their metadata, or because their source no longer has them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Corpus
from docmill.storage.deletion import removal
from docmill.storage.deletion.removal import Condition, trace
from docmill.storage.errors import StorageError
from docmill.storage.steps.jobs import OpenJob
from tests.storage.builders import documents, finish, make_chunk, numbered, read, read_chunk, request, run_job
from tests.storage.ingest.test_pruning import read_and_prune


def read_with(database: Database, **metas: dict[str, Any]) -> OpenJob:
    """Read documents with these metadata, whose texts have their keys in them."""
    chunk = make_chunk(*[(key, f"text {key}", meta, (), seq) for seq, (key, meta) in enumerate(metas.items())])
    job = read_chunk(database, request(), chunk)
    finish(database)
    return job


def let_vanish(database: Database, kept: int) -> None:
    """Read the source again, which now has only the first of its numbered documents."""
    read_and_prune(database, numbered(kept))
    finish(database)


def n_documents(database: Database) -> int | None:
    return database.value(select(Corpus.n_documents))


def test_a_field_is_compared_as_a_prompt_would_write_it(database: Database) -> None:
    customers: dict[str, Any] = {"a": "7", "b": 7, "c": "seven", "d": True, "e": 8.5, "f": "", "g": None, "h": ["7"]}
    read_with(database, **{key: {"customer": customer} for key, customer in customers.items()}, z={"other": "7"})
    wanted = {"7": "ab", "seven": "c", "true": "d", "8.5": "e", "": "f", '["7"]': "h", "9": ""}
    for value, keys in wanted.items():
        assert removal.select_keys(database, "books", [Condition("customer", value)]) == [*keys], value


def test_one_version_of_a_document_must_meet_all_conditions(database: Database) -> None:
    read_with(database, a={"x": 1, "y": 1}, b={"x": 1}, c={"x": 2, "y": 1})
    read_with(database, a={"x": 3, "y": 2}, b={"x": 1}, c={"x": 1, "y": 3})
    x, y = Condition("x", "1"), Condition("y", "1")
    assert removal.select_keys(database, "books", [x]) == ["a", "b", "c"]
    assert removal.select_keys(database, "books", [x, y]) == ["a"]


def test_vanished_documents_are_removed_with_their_texts_and_those_that_came_back_stay(database: Database) -> None:
    run_job(database, request(), numbered(5))
    assert removal.count_vanished(database) == {}
    let_vanish(database, kept=3)
    assert n_documents(database) == 3
    assert removal.count_vanished(database) == {"books": 2}
    assert trace(database, "text 4").stored
    keys = removal.select_keys(database, "books", only_vanished=True)
    assert keys == ["k3", "k4"]
    let_vanish(database, kept=4)
    removed = removal.remove_documents(database, "books", [*keys, "k0"], only_vanished=True)
    assert (removed.documents, removed.contents, removed.outcomes) == (1, 1, 1)
    removal.settle(database)
    assert trace(database, "text 4").is_nowhere
    assert documents(database).keys() == {"k0", "k1", "k2", "k3"}
    assert n_documents(database) == 4
    assert removal.select_keys(database, "books", only_vanished=True) == []


def test_vanished_documents_are_chosen_by_the_metadata_that_they_had(database: Database) -> None:
    read_with(database, a={"customer": 7}, k0={"customer": 7}, b={"customer": 8})
    let_vanish(database, kept=1)
    of_customer = [Condition("customer", "7")]
    assert removal.select_keys(database, "books", of_customer) == ["a", "k0"]
    assert removal.select_keys(database, "books", of_customer, only_vanished=True) == ["a"]


def test_a_trace_tells_vanished_and_superseded_documents_apart(database: Database) -> None:
    run_job(database, request(), numbered(4))
    let_vanish(database, kept=3)
    read(database, request(), [("k0", "another text")])
    traced = trace(database, "text 3")
    assert (traced.documents, traced.vanished, traced.superseded) == ((("books", "k3"),), (("books", "k3"),), ())
    traced = trace(database, "text 0")
    assert (traced.documents, traced.vanished, traced.superseded) == ((("books", "k0"),), (), (("books", "k0"),))
    traced = trace(database, "text 1")
    assert (traced.documents, traced.vanished, traced.superseded) == ((("books", "k1"),), (), ())


@pytest.mark.parametrize("wrong", ["customer=7", "meta.customer", "meta.=7", "", "metaxcustomer=7"])
def test_an_invalid_condition_is_refused(wrong: str) -> None:
    with pytest.raises(StorageError, match=r"meta\.FIELD=VALUE"):
        Condition.parse(wrong)
