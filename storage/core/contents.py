"""Get or create contents: unique texts, addressed by the hash of their UTF-8 bytes."""

from __future__ import annotations

from collections.abc import Mapping

from storage.core import advisory_locks
from storage.core.schema import Content
from storage.core.transaction import Columns, Transaction


def store(transaction: Transaction, texts: Mapping[bytes, str]) -> tuple[dict[bytes, int], dict[int, int]]:
    """The id of every text by its hash, and {id: characters} of those that were not stored before."""
    advisory_locks.refer(transaction)
    known = transaction.content_ids(list(texts))
    new = [sha256 for sha256 in texts if sha256 not in known] if known else list(texts)
    if not new:
        return known, {}
    ids = dict(zip(new, transaction.next_ids(Content, len(new)), strict=True))
    new = transaction.in_lock_order(new)
    columns: Columns = {
        "id": [ids[sha256] for sha256 in new],
        "sha256": new,
        "text": [texts[sha256] for sha256 in new],
        "n_chars": [len(texts[sha256]) for sha256 in new],
    }
    if transaction.try_load(Content, columns):
        return known | ids, dict(zip(columns["id"], columns["n_chars"], strict=True))
    made = transaction.insert_missing(Content, columns, Content.id, Content.sha256, Content.n_chars, key="sha256")
    known |= {row.sha256: row.id for row in made}
    # Stored by another writer since we looked.
    known |= transaction.content_ids([sha256 for sha256 in new if sha256 not in known])
    return known, {row.id: row.n_chars for row in made}
