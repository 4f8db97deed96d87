"""Ids that look alike, a number and a string, or an id and the name of a record without one, are two records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Content, Document, RejectionRow
from docmill.storage.ingest.chunks import FIRST_CHUNK_RECORDS
from docmill.storage.ingest.ingest import Counts
from docmill.storage.readers import Rejection
from docmill.worker.errors import WorkerError
from docmill.worker.settings import Settings
from docmill.worker.submit.enqueue import Enqueued, IngestProgress, enqueue
from docmill.worker.submit.options import Request
from docmill.worker.submit.request import prepare

Read = Callable[..., Enqueued]
FAR = FIRST_CHUNK_RECORDS + 10  # so that two records are not of one chunk
MIXED = "its id is a string, and an earlier record has the same one as a number; both would be one document: "
ALIKE = "write them alike, or give one another id"


@pytest.fixture
def read(tmp_path: Path, database: Database) -> Read:
    def act(records: list[dict[str, Any]], progress: IngestProgress | None = None, **asked: Any) -> Enqueued:
        path = tmp_path / "c.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        asked_for = Request(source=str(path), task="translate", model="null", corpus="c", **asked)
        return enqueue(database, None, prepare(Settings(home=tmp_path / "home"), asked_for), progress)

    return act


def texts(database: Database) -> dict[str, str]:
    """The current documents that a test is about."""
    with database.read() as transaction:
        rows = transaction.execute(
            select(Document.key, Content.text)
            .join(Content, Content.id == Document.content_id)
            .where(Document.superseded_by.is_(None), ~Document.gone)
        ).all()
    return {row.key: row.text for row in rows if not row.key.startswith("f")}


def rejections(database: Database) -> dict[str, str]:
    with database.read() as transaction:
        rows = transaction.execute(select(RejectionRow.place, RejectionRow.reason, RejectionRow.ingest_id)).all()
    latest = max((row.ingest_id for row in rows), default=0)
    return {row.place: row.reason for row in rows if row.ingest_id == latest}


def filler(n: int) -> list[dict[str, Any]]:
    return [{"id": f"f{i}", "text": f"filler {i}"} for i in range(n)]


@pytest.mark.parametrize("apart", [0, FAR])
def test_a_number_and_a_string_are_not_one_document(read: Read, database: Database, apart: int) -> None:
    records = [{"id": 1, "text": "number"}, *filler(apart), {"id": "1", "text": "string"}, {"id": 2, "text": "two"}]
    done = read(records)
    assert texts(database) == {"1": "number", "2": "two"}
    assert rejections(database) == {f"c.jsonl:{apart + 2}": MIXED + ALIKE}
    assert (done.counts.records, done.counts.rejected, done.counts.repeated) == (apart + 2, 1, 0)
    again = read(records)
    assert (again.counts.unchanged, again.counts.rejected, again.counts.changed) == (apart + 2, 1, 0)
    assert texts(database) == {"1": "number", "2": "two"}


@pytest.mark.parametrize("apart", [0, FAR])
def test_an_id_is_not_the_name_of_a_record_without_one(read: Read, database: Database, apart: int) -> None:
    read([{"text": "nameless"}, *filler(apart), {"id": "c.jsonl:1", "text": "named"}])
    assert texts(database) == {"c.jsonl:1": "nameless"}
    reason = "its id is the name that an earlier record without an id got by its place: give one of them another id"
    assert rejections(database) == {f"c.jsonl:{apart + 2}": reason}


@pytest.mark.parametrize("apart", [0, FAR])
def test_the_name_of_a_record_without_an_id_replaces_no_id(read: Read, database: Database, apart: int) -> None:
    named = f"c.jsonl:{apart + 2}"
    read([{"id": named, "text": "named"}, *filler(apart), {"text": "nameless"}])
    assert texts(database) == {named: "named"}
    reason = "it has no id, and the name that it gets by its place is the id of an earlier record: give it an id"
    assert rejections(database) == {named: reason}


@pytest.mark.parametrize("apart", [0, FAR])
def test_of_two_ids_of_one_kind_the_last_still_wins(read: Read, database: Database, apart: int) -> None:
    done = read([{"id": 1, "text": "a"}, {"id": "x", "text": "b"}, *filler(apart), {"id": 1, "text": "c"}])
    assert texts(database) == {"1": "c", "x": "b"}
    assert (done.counts.rejected, done.counts.repeated) == (0, 1)
    first = "record 1 of the source" if apart else "c.jsonl:1"
    said = f'its id "1" comes again at c.jsonl:{apart + 3}, and the last record counts: give one another id'
    assert rejections(database) == {first: said}


def test_ids_that_became_strings_from_one_reading_to_the_next_go_on(read: Read, database: Database) -> None:
    read([{"id": 1, "text": "one"}, {"id": 2, "text": "two"}])
    done = read([{"id": "1", "text": "one"}, {"id": "2", "text": "zwei"}])
    assert texts(database) == {"1": "one", "2": "zwei"}
    assert (done.counts.unchanged, done.counts.changed, done.counts.rejected) == (1, 1, 0)


def test_a_reading_that_was_cut_off_and_goes_on_tells_them_apart(read: Read, database: Database) -> None:
    class Cut(IngestProgress):
        def advanced(self, counts: Counts) -> None:
            raise KeyboardInterrupt

    records = [{"id": 1, "text": "number"}, *filler(FAR), {"id": "1", "text": "string"}]
    with pytest.raises(KeyboardInterrupt):
        read(records, Cut())
    done = read(records)
    assert done.adopted
    assert texts(database) == {"1": "number"}
    assert done.counts.rejected == 1


@pytest.mark.parametrize("apart", [0, FAR])
def test_strict_stops_at_an_id_that_looks_like_another(read: Read, apart: int) -> None:
    records = [{"id": 1, "text": "number"}, *filler(apart), {"id": "1", "text": "string"}]
    with pytest.raises(WorkerError, match=rf"c\.jsonl:{apart + 2}: its id is a string"):
        read(records, strict=True)


def test_it_is_told_as_any_rejection_and_pruning_keeps_the_document(read: Read, database: Database) -> None:
    told: list[Rejection] = []

    class Told(IngestProgress):
        def rejected(self, rejected: Rejection) -> None:
            told.append(rejected)

    records = [{"id": 1, "text": "number"}, *filler(FAR), {"id": "1", "text": "string"}]
    read([*records[:-1], {"id": "gone", "text": "gone"}])
    done = read(records, Told(), prune=True, prune_rejected="keep")
    assert [(one.where, one.keys) for one in told] == [(f"c.jsonl:{FAR + 2}", ("1",))]
    assert done.counts.vanished == 1
    assert texts(database) == {"1": "number"}
