"""A number and a string that look alike are two ids, and so are an id and the name of a record without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import RejectionRow
from docmill.storage.ingest.chunks import FIRST_CHUNK_RECORDS
from docmill.storage.ingest.ingest import Counts
from docmill.storage.readers import Rejection
from docmill.worker.errors import WorkerError
from docmill.worker.settings import Settings
from docmill.worker.submit.enqueue import Enqueued, IngestProgress, enqueue
from docmill.worker.submit.options import Request
from docmill.worker.submit.request import prepare
from tests.storage.builders import documents

Read = Callable[..., Enqueued]
FAR = FIRST_CHUNK_RECORDS + 10  # so that two records are not of one chunk
MIXED = "its id is a string, and an earlier record has the same one as a number; both would be one document: "
ALIKE = "write them alike, or give one another id"


@pytest.fixture
def read(tmp_path: Path, database: Database) -> Read:
    def read_records(
        records: list[dict[str, Any]], progress: IngestProgress | None = None, **options: Any
    ) -> Enqueued:
        path = tmp_path / "c.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        request = Request(source=str(path), task="translate", model="null", corpus="c", **options)
        return enqueue(database, None, prepare(Settings(home=tmp_path / "home"), request), progress)

    return read_records


def texts(database: Database) -> dict[str, str]:
    """Return the texts of the current documents, without fillers, by their ids."""
    return {key: text for key, text in documents(database).items() if not key.startswith("f")}


def rejections(database: Database) -> dict[str, str]:
    rows = database.rows(select(RejectionRow.place, RejectionRow.reason, RejectionRow.ingest_id))
    latest = max((row.ingest_id for row in rows), default=0)
    return {row.place: row.reason for row in rows if row.ingest_id == latest}


def filler(n: int) -> list[dict[str, Any]]:
    return [{"id": f"f{i}", "text": f"filler {i}"} for i in range(n)]


@pytest.mark.parametrize("apart", [0, FAR])
def test_a_number_and_a_string_are_not_one_document(read: Read, database: Database, apart: int) -> None:
    records = [{"id": 1, "text": "number"}, *filler(apart), {"id": "1", "text": "string"}, {"id": 2, "text": "two"}]
    enqueued = read(records)
    assert texts(database) == {"1": "number", "2": "two"}
    assert rejections(database) == {f"c.jsonl:{apart + 2}": MIXED + ALIKE}
    assert (enqueued.counts.records, enqueued.counts.rejected, enqueued.counts.repeated) == (apart + 2, 1, 0)
    repeated = read(records)
    assert (repeated.counts.unchanged, repeated.counts.rejected, repeated.counts.changed) == (apart + 2, 1, 0)
    assert texts(database) == {"1": "number", "2": "two"}


@pytest.mark.parametrize("apart", [0, FAR])
def test_an_id_is_not_the_name_of_a_record_without_one(read: Read, database: Database, apart: int) -> None:
    read([{"text": "nameless"}, *filler(apart), {"id": "c.jsonl:1", "text": "named"}])
    assert texts(database) == {"c.jsonl:1": "nameless"}
    reason = "its id is the name that an earlier record without an id got by its place: give one of them another id"
    assert rejections(database) == {f"c.jsonl:{apart + 2}": reason}


@pytest.mark.parametrize("apart", [0, FAR])
def test_the_name_of_a_record_without_an_id_replaces_no_id(read: Read, database: Database, apart: int) -> None:
    name = f"c.jsonl:{apart + 2}"
    read([{"id": name, "text": "named"}, *filler(apart), {"text": "nameless"}])
    assert texts(database) == {name: "named"}
    reason = "it has no id, and the name that it gets by its place is the id of an earlier record: give it an id"
    assert rejections(database) == {name: reason}


@pytest.mark.parametrize("apart", [0, FAR])
def test_the_last_of_two_equal_ids_wins(read: Read, database: Database, apart: int) -> None:
    enqueued = read([{"id": 1, "text": "a"}, {"id": "x", "text": "b"}, *filler(apart), {"id": 1, "text": "c"}])
    assert texts(database) == {"1": "c", "x": "b"}
    assert (enqueued.counts.rejected, enqueued.counts.repeated) == (0, 1)
    first = "record 1 of the source" if apart else "c.jsonl:1"
    reason = f'its id "1" comes again at c.jsonl:{apart + 3}, and the last record counts: give one another id'
    assert rejections(database) == {first: reason}


def test_documents_whose_ids_became_strings_are_the_same_documents(read: Read, database: Database) -> None:
    read([{"id": 1, "text": "one"}, {"id": 2, "text": "two"}])
    enqueued = read([{"id": "1", "text": "one"}, {"id": "2", "text": "zwei"}])
    assert texts(database) == {"1": "one", "2": "zwei"}
    assert (enqueued.counts.unchanged, enqueued.counts.changed, enqueued.counts.rejected) == (1, 1, 0)


def test_a_continued_reading_tells_a_number_from_a_string(read: Read, database: Database) -> None:
    class Cut(IngestProgress):
        def advanced(self, counts: Counts) -> None:
            raise KeyboardInterrupt

    records = [{"id": 1, "text": "number"}, *filler(FAR), {"id": "1", "text": "string"}]
    with pytest.raises(KeyboardInterrupt):
        read(records, Cut())
    enqueued = read(records)
    assert enqueued.adopted
    assert texts(database) == {"1": "number"}
    assert enqueued.counts.rejected == 1


@pytest.mark.parametrize("apart", [0, FAR])
def test_strict_stops_at_an_id_that_looks_like_another(read: Read, apart: int) -> None:
    records = [{"id": 1, "text": "number"}, *filler(apart), {"id": "1", "text": "string"}]
    with pytest.raises(WorkerError, match=rf"c\.jsonl:{apart + 2}: its id is a string"):
        read(records, strict=True)


def test_a_mixed_id_is_reported_as_a_rejection_and_pruning_keeps_its_document(read: Read, database: Database) -> None:
    reported: list[Rejection] = []

    class Reporter(IngestProgress):
        def rejected(self, rejected: Rejection) -> None:
            reported.append(rejected)

    records = [{"id": 1, "text": "number"}, *filler(FAR), {"id": "1", "text": "string"}]
    read([*records[:-1], {"id": "gone", "text": "gone"}])
    enqueued = read(records, Reporter(), prune=True, prune_rejected="keep")
    assert [(rejection.where, rejection.keys) for rejection in reported] == [(f"c.jsonl:{FAR + 2}", ("1",))]
    assert enqueued.counts.vanished == 1
    assert texts(database) == {"1": "number"}
