"""The shard that holds a content is found by its id."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Shard
from docmill.storage.core.transaction import Transaction
from docmill.storage.results import batches
from docmill.storage.results.batches import holds
from docmill.storage.results.provenance import provenance
from docmill.storage.steps.sharding import pack
from tests.storage.builders import numbered, read, request, set_shard, shards_of, work


def test_an_id_is_found_at_its_place_and_not_across_two_others() -> None:
    assert holds(pack([7, 300, 1]), pack([300]))
    assert not holds(pack([256, 0]), pack([1]))  # whose bytes stand there one byte further
    assert holds(pack([256, 0, 1]), pack([1]))
    assert not holds(b"", pack([1]))


def test_contents_are_read_only_of_shards_that_ran_when_the_outcome_was_written(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = read(database, request(), numbered(1))
    work(database)
    [computed] = shards_of(database, job)

    def add_others(transaction: Transaction) -> None:
        """Ended long before, and begun long after."""
        columns = [column for column in Shard.__table__.columns if column.name != "id"]
        row = transaction.execute(select(*columns).where(Shard.id == computed.id)).one()._asdict()
        for aside_s in (-100.0, 100.0):
            times = {name: row[name] + aside_s for name in ("started_at", "finished_at")}
            transaction.execute(insert(Shard).values(row | times))

    database.write(add_others)
    looked_at: list[bytes] = []

    def holds(contents: bytes, _wanted: object) -> bool:
        looked_at.append(contents)
        return True

    monkeypatch.setattr(batches, "holds", holds)
    for finished_at in (computed.finished_at, None):  # ended, and still at work
        set_shard(database, computed.id, finished_at=finished_at)
        batch = provenance(database, job.id, "k0").step.batch
        assert batch is not None
        assert batch.shard == computed.id
    assert len(looked_at) == 2


def test_a_text_that_is_still_planned_is_found_without_reading_other_shards(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = read(database, request(), numbered(3_000))
    shards = shards_of(database, job)
    looked_at: list[bytes] = []

    def noted(contents: bytes, wanted: bytes) -> bool:
        looked_at.append(contents)
        return holds(contents, wanted)

    monkeypatch.setattr(batches, "holds", noted)
    step = provenance(database, job.id, "k1700").step
    assert step.batch is not None
    assert step.content_id is not None
    [holding] = [shard.id for shard in shards if holds(shard.contents, pack([step.content_id]))]
    assert (step.batch.shard, step.batch.state) == (holding, "planned")
    assert holding != shards[-1].id
    assert len(looked_at) == 1


def test_the_job_that_was_at_work_when_the_outcome_was_written_is_found_behind_many_later_ones(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "JOBS", 2)
    monkeypatch.setattr(batches, "CLOCK_S", 0.0)
    first = read(database, request("a.jsonl", corpus="first"), numbered(1))
    work(database)
    later = [read(database, request(f"{n}.jsonl", corpus=f"later {n}"), numbered(1)).id for n in range(4)]
    batch = provenance(database, later[-1], "k0").step.batch
    assert batch is not None
    assert batch.job == first.id
