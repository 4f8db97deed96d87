"""A transaction does the same on every database, and nothing else in the code asks which database it is."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from sqlalchemy import delete, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Content, Corpus
from docmill.storage.core.transaction import Columns, Transaction
from tests.kinds import KINDS

ROOT = Path(__file__).parents[3]


def contents(transaction: Transaction, *texts: str) -> Columns:
    hashes = [sha256(text.encode()).digest() for text in texts]
    ids = transaction.next_ids(Content, len(texts))
    return {"id": ids, "sha256": hashes, "text": [*texts], "n_chars": [len(text) for text in texts]}


def load(database: Database, *texts: str) -> None:
    database.write(lambda transaction: transaction.load(Content, contents(transaction, *texts)))


def test_only_the_database_and_its_migrations_choose_by_the_kind_of_database() -> None:
    files = [file for folder in ("features", "worker", "tasks", "storage") for file in (ROOT / folder).rglob("*.py")]
    choosing = r"is_sqlite|dialect\.name|get_backend_name|isinstance\([^)]*Transaction"
    found = {str(file.relative_to(ROOT)) for file in files if re.search(choosing, file.read_text("utf-8"))}
    found = {name for name in found if "migrations/versions" not in name}
    assert found == {"storage/core/database.py", "storage/migrations/env.py"}


def test_the_file_of_a_store_is_known_unless_a_uri_names_it(postgres_url: str, tmp_path: Path) -> None:
    file = tmp_path / "docmill.db"
    assert Database(f"sqlite:///{file}", kinds=KINDS).file == file
    assert Database(f"sqlite:///file:{file}?mode=ro&uri=true", kinds=KINDS).file is None
    assert Database(postgres_url, kinds=KINDS).file is None


def test_rows_are_probed_by_texts_and_by_bytes(database: Database) -> None:
    load(database, "a", "b", "c")
    query = select(Content.text, Content.n_chars)
    with database.read() as transaction:
        by_text = transaction.probe(query, Content.text, ["a", "c", "unknown"])
        by_hash = transaction.probe(query, Content.sha256, [sha256(b"b").digest()])
        assert transaction.probe(query, Content.text, []) == []
    assert sorted(map(tuple, by_text)) == [("a", 1), ("c", 1)]
    assert [tuple(row) for row in by_hash] == [("b", 1)]


def test_the_ids_of_contents_are_found_by_their_hashes(database: Database) -> None:
    load(database, "a", "b")
    with database.read() as transaction:
        stored = {row.sha256: row.id for row in transaction.execute(select(Content.sha256, Content.id))}
        assert transaction.content_ids([*stored, b"x" * 32]) == stored
        assert transaction.content_ids([]) == {}


def test_many_rows_are_loaded_and_a_table_without_given_ids_numbers_them(database: Database) -> None:
    names = [f"corpus {n}" for n in range(1_001)]  # more than two statements of SQLite
    columns: Columns = {"name": names, "n_documents": [0] * len(names), "created_at": [0.0] * len(names)}
    database.write(lambda transaction: transaction.load(Corpus, columns))
    with database.read() as transaction:
        found = transaction.execute(select(Corpus.name, Corpus.id).order_by(Corpus.id)).all()
    assert [row.name for row in found] == names
    assert len({row.id for row in found}) == len(names)


def test_an_id_is_not_given_again_once_its_row_was_deleted(database: Database) -> None:
    load(database, "a", "b")

    def remove(transaction: Transaction) -> int:
        last = max(transaction.scalars(select(Content.id)))
        transaction.keep_last_ids(Content)
        transaction.execute(delete(Content))
        return last

    last = database.write(remove)
    assert database.write(lambda transaction: transaction.own_id(Content)) in ({}, {"id": last + 1})
    assert database.write(lambda transaction: transaction.next_ids(Content, 2)) == [last + 1, last + 2]


def test_a_table_is_known_by_its_name(database: Database) -> None:
    with database.read() as transaction:
        assert transaction.has_table("content")
        assert not transaction.has_table("contents")
