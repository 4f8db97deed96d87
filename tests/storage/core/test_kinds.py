"""The store finds the kinds of tasks by their names, and refuses unknown ones."""

from __future__ import annotations

import pytest

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Shard
from docmill.storage.core.specs import READING_SIZE, Spec, StoredKind
from docmill.storage.errors import UnknownKind
from docmill.storage.outputs.output_types import VECTOR
from tests.storage.builders import numbered, read, request


def test_a_kind_is_found_by_its_name(database: Database) -> None:
    assert database.kind_of("embed") == StoredKind("embed", VECTOR, READING_SIZE)


def test_a_kind_that_is_not_known_is_named_with_those_that_are(database: Database) -> None:
    with pytest.raises(UnknownKind, match=r"no task kind ocr") as refused:
        database.kind_of("ocr")
    assert f"it has: {', '.join(sorted(database.kinds))}." in str(refused.value)


def test_nothing_is_planned_for_a_kind_that_is_not_known(database: Database) -> None:
    with pytest.raises(UnknownKind):
        read(database, request(spec=Spec("ocr", "null", "null:1")), numbered(1))
    with database.read() as transaction:
        assert transaction.exec_driver_sql(f"SELECT count(*) FROM {Shard.__tablename__}").scalar() == 0
