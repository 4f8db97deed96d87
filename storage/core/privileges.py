"""Privileges that docmill's database users need on PostgreSQL, and the check for missing privileges.

docs/security.md has the same as GRANT statements. A test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from types import MappingProxyType

from sqlalchemy import ColumnElement, func, select

from docmill.storage.core.database import Database
from docmill.storage.errors import GRANTS_DOCS, RightMissing
from docmill.storage.features import features

Rights = Mapping[str, tuple[str, ...]]  # by table or sequence; "UPDATE (COLUMN)" is the right to one column

_READ, _ADD, _CHANGE, _KEEP = (
    ("SELECT",),
    ("SELECT", "INSERT"),
    ("SELECT", "INSERT", "UPDATE"),
    ("SELECT", "INSERT", "UPDATE", "DELETE"),
)


def _update(*columns: str) -> tuple[str, ...]:
    """Return the rights to read a table and to change these columns."""
    return ("SELECT", *(f"UPDATE ({column})" for column in columns))


# For a worker that takes no orders (`docmill.enqueue`). It reads texts, and the metadata that prompts of later steps
# use, but no corpus and no source.
WORK: Rights = MappingProxyType(
    {
        "alembic_version": _READ,
        "compatibility": _READ,
        "content": _ADD,  # the output of a step is a text of the next
        "spec": _READ,
        "step": _update("n_prior_done", "n_prior_failed", "n_prior_skipped", "n_prior_truncated", "n_rescued"),
        "step_text": ("SELECT", "INSERT", "DELETE"),
        "document": _READ,
        "prompt": _ADD,
        "pipeline": (*(f"SELECT ({c})" for c in ("id", "name", "schedule", "looked_at")), "UPDATE (looked_at)"),
        "pipeline_run": _KEEP,
        "job": _update("state", "paused", "reason", "finished_at", "forgotten_at"),
        "budget": _update("spent", "n_shards", "ended_cost"),
        "shard": _CHANGE,
        "shard_count": _READ,
        "outcome": _CHANGE,
        "runtime": _ADD,
        "vector_length": _ADD,
        "worker": _KEEP,
        "refusal": _KEEP,
        "lease": _KEEP,
        "content_id_seq": ("USAGE",),
        "pipeline_run_id_seq": ("USAGE",),
        "shard_id_seq": ("USAGE",),
        "runtime_id_seq": ("USAGE",),
    }
)

# More rights, for a worker that takes orders (`docmill.enqueue`): it reads sources into corpora.
ORDERS: Rights = MappingProxyType(
    {
        "replacement": _READ,
        "job_key": _ADD,
        **dict.fromkeys(("corpus", "ingest", "document", "job", "step", "shard", "budget"), _CHANGE),
        **dict.fromkeys(("content", "spec", "step_text", "prompt"), _ADD),
        **dict.fromkeys(("rejection", "contender"), ("SELECT", "INSERT", "DELETE")),
        **dict.fromkeys(
            (
                *("corpus_id_seq", "ingest_id_seq", "document_id_seq", "job_id_seq"),
                *("shard_id_seq", "content_id_seq", "spec_id_seq"),
            ),
            ("USAGE",),
        ),
    }
)


def worker_rights() -> Rights:
    """Return the rights of a worker, to the tables of features, too."""
    return {**WORK, **dict(chain.from_iterable(feature.worker_rights.items() for feature in features()))}


def order_rights() -> Rights:
    """Return the further rights of a worker that takes orders."""
    return {**ORDERS, **dict(chain.from_iterable(feature.order_rights.items() for feature in features()))}


def find_missing(database: Database, rights: Rights) -> list[str]:
    """Return the rights that the database's user lacks, such as "INSERT on outcome". Empty on SQLite."""
    if database.server is None:
        return []
    needed = [(name, right) for name, several in rights.items() for right in several]
    has = [_has(name, right).label(f"n{i}") for i, (name, right) in enumerate(needed)]
    with database.read() as transaction:
        granted = transaction.execute(select(*has)).one()
    return [f"{right} on {name}" for (name, right), there in zip(needed, granted, strict=True) if not there]


def _has(name: str, right: str) -> ColumnElement[bool]:
    """Return the SQL expression for having a right. A right to a table covers each of its columns."""
    if right == "USAGE":
        return func.has_sequence_privilege(name, right)
    kind, _, column = right.partition(" (")
    return func.has_column_privilege(name, column[:-1], kind) if column else func.has_table_privilege(name, right)


def require(database: Database, rights: Rights) -> None:
    """Raise RightMissing, which names every right that the database's user lacks."""
    if lacking := find_missing(database, rights):
        raise RightMissing(f"the user of the database {database} lacks {', '.join(lacking)}; {GRANTS_DOCS}")
