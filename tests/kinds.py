"""The kinds of tasks that the tests' stores know, and stores with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

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
def new_store(url: str, **options: Any) -> Iterator[Database]:
    """Open a database, and make its schema. Close it at the end of the block."""
    with closing(Database(url, kinds=KINDS, **options)) as database:
        migrations.upgrade(database)
        yield database


def sized(**sizes: ShardSize) -> dict[str, StoredKind]:
    """Return the kinds, some of them with other sizes of shards."""
    return {**KINDS} | {name: StoredKind(name, KINDS[name].output, size) for name, size in sizes.items()}
