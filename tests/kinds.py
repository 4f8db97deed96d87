"""The kinds of tasks that the tests' stores know, and stores with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from docmill.storage import migrations
from docmill.storage.core.database import Database
from docmill.storage.core.specs import READING_SIZE, WRITING_SIZE, ShardSize, StoredKind
from docmill.storage.outputs.output_types import RECORD, TEXT
from docmill.tasks.kinds import STORED_KINDS

# "copy" stands for any kind that puts out text and reads as fast as an embedding model, "fields" for one of records.
KINDS = {
    **STORED_KINDS,
    "copy": StoredKind("copy", TEXT, READING_SIZE),
    "fields": StoredKind("fields", RECORD, WRITING_SIZE),
}


@contextmanager
def new_store(url: str, **options: Any) -> Iterator[Database]:
    """Open a database, and make its schema. Close it at the end of the block."""
    with closing(Database(url, kinds=KINDS, **options)) as database:
        migrations.upgrade(database)
        yield database


def sized(**sizes: ShardSize) -> dict[str, StoredKind]:
    """Return kinds with these sizes of shards in place of their own."""
    return {**KINDS} | {name: StoredKind(name, KINDS[name].output, size) for name, size in sizes.items()}
