"""The kinds of tasks that the tests' stores know, and stores with them.

A SQLite file that is opened here is not synced to the disk: a killed process loses nothing by that, only a power
cut does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from sqlalchemy import event

from docmill.storage import migrations
from docmill.storage.core.database import Database
from docmill.storage.core.specs import READING_SIZE, WRITING_SIZE, ShardSize, StoredKind
from docmill.storage.outputs.output_types import OUTPUT_TYPES, TEXT
from docmill.tasks.kinds import STORED_KINDS

# Besides docmill's own kinds: one for each type of output, with its name, and "copy" for any kind that outputs texts
# and is as fast as an embedding model.
KINDS = {
    **STORED_KINDS,
    **{output.name: StoredKind(output.name, output, WRITING_SIZE) for output in OUTPUT_TYPES},
    "copy": StoredKind("copy", TEXT, READING_SIZE),
}


@contextmanager
def open_store(url: str, **options: Any) -> Iterator[Database]:
    """Open a database. Close it at the end of the block."""
    with closing(Database(url, kinds=KINDS, **options)) as database:
        if database.server is None:
            event.listen(database.engine, "connect", _sync_nothing)
        yield database


def _sync_nothing(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")


@contextmanager
def new_store(url: str, **options: Any) -> Iterator[Database]:
    """Open a database, and make its schema. Close it at the end of the block."""
    with open_store(url, **options) as database:
        migrations.upgrade(database)
        yield database


def sized(**sizes: ShardSize) -> dict[str, StoredKind]:
    """Return the kinds, some of them with other sizes of shards."""
    return {**KINDS} | {name: StoredKind(name, KINDS[name].output, size) for name, size in sizes.items()}
