"""The kinds of tasks, as the store knows them."""

from __future__ import annotations

from collections.abc import Mapping

from storage.kinds import READING_SIZE, WRITING_SIZE, StoredKind
from storage.results.output_types import TEXT, VECTOR

STORED_KINDS: Mapping[str, StoredKind] = {
    kind.name: kind
    for kind in (
        StoredKind("summarize", TEXT, WRITING_SIZE),
        StoredKind("translate", TEXT, WRITING_SIZE),
        StoredKind("embed", VECTOR, READING_SIZE),
        StoredKind("generate", TEXT, WRITING_SIZE),
    )
}
