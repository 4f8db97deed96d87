"""A shard that may hold the document that kills its process is to be computed alone."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Shard
from docmill.storage.leases import dispatch, shards
from docmill.storage.leases.policy import LAPSES_TOGETHER
from tests.storage.builders import numbered, read, request
from tests.storage.leases.test_dispatch import sign_on


@pytest.mark.parametrize(
    ("values", "alone"),
    [
        ({}, False),
        ({"suspect": 1}, True),
        ({"suspect": 2}, True),
        ({"lapses": LAPSES_TOGETHER - 1}, False),
        ({"lapses": LAPSES_TOGETHER}, True),
    ],
    ids=str,
)
def test_a_worker_is_told_before_its_claim_if_a_shard_runs_alone(
    database: Database, values: dict[str, int], alone: bool
) -> None:
    read(database, request(), numbered(3))
    sign_on(database, "w1")
    [lane] = dispatch.lanes(database)
    [shard_id] = dispatch.take(database, lane)
    if values:
        database.write(lambda transaction: transaction.execute(update(Shard).values(**values)))
    head = shards.look(database, shard_id)
    assert head is not None
    assert head.suspect is alone
