"""A migration that is killed at each of its stages: the old model answers until the switch, and then the new one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import OutcomeRow, Shard, SpecRow
from docmill.storage.search.search import choose
from docmill.storage.steps.sharding import unpack
from docmill.worker.submit.options import Request
from tests.fault_points import FAULT, STRUCK
from tests.faults.fleet import Fleet, numbered
from tests.worker.harness import kill_group, until

OLD, NEW = "null@90000", "null@3000"
N = 600  # three shards
MIGRATE = ("migrate", "run", "notes", "--from", OLD, "--to", NEW, "--yes")


def read_answering_model(database: Database) -> str:
    """Return the model by which a search answers."""
    return choose(database, ["notes"]).spec.model


def count_computed(database: Database) -> int:
    """Return the number of texts with an outcome by the new model."""
    with database.read() as transaction:
        of_new = select(OutcomeRow.content_id).join(SpecRow, SpecRow.id == OutcomeRow.spec_id)
        return len(transaction.scalars(of_new.where(SpecRow.model == NEW)).all())


def kill_at(fleet: Fleet, point: str) -> None:
    fleet.environment[FAULT] = f"{point}:kill"
    (fleet.folder / "home" / STRUCK).unlink(missing_ok=True)
    process = fleet.start(*MIGRATE)
    assert process.wait(60) == -9, fleet.log("migrate")
    del fleet.environment[FAULT]


@pytest.mark.faults
def test_a_migration_killed_at_each_stage_answers_by_the_old_model_until_the_switch(
    tmp_path: Path, database: Database, redis_url: str
) -> None:
    fleet = Fleet(tmp_path, database, redis_url)
    del fleet.environment["DOCMILL_REDIS_URL"]
    fleet.corpus(numbered(N), "corpus-0.jsonl")
    fleet.enqueued(Request(source=str(fleet.folder / "corpus-0.jsonl"), task="embed", model=OLD, corpus="notes"))
    fleet("run", "embed", "corpus-0.jsonl", "--model", OLD, "--corpus", "notes")
    assert read_answering_model(database) == OLD

    for point in ("migration", "backfill", "swept"):
        kill_at(fleet, point)
        assert read_answering_model(database) == OLD, point
        assert count_computed(database) == 0

    process = fleet.start(*MIGRATE)
    until(lambda: count_computed(database) > 0, "a part is computed")
    kill_group(process)
    assert 0 < count_computed(database) < N, "it was killed while it computed"
    assert read_answering_model(database) == OLD

    for point in ("filled", "switching"):
        kill_at(fleet, point)
        assert count_computed(database) == N
        assert read_answering_model(database) == OLD, point

    kill_at(fleet, "switched")
    assert read_answering_model(database) == NEW

    result = fleet(*MIGRATE)
    assert f"{NEW} answers for notes now" in result.stdout
    assert read_answering_model(database) == NEW
    shards = fleet.shards(Shard.spec_id, Shard.state, Shard.contents)
    held = Counter(
        (row.spec_id, content_id) for row in shards if row.state != "split" for content_id in unpack(row.contents)
    )
    assert len(held) == 2 * N
    assert set(held.values()) == {1}, "nothing is computed twice"
    [shown] = fleet.json("migrate", "status", "notes")
    assert (shown["state"], shown["answers"]) == ("switched", NEW)
