"""The invariants of a store: conditions that hold at every moment. `invariants.sql` has the queries.

All queries run in one read transaction, which sees one state of the store. So workers that go on meanwhile cause no
false alarm. A query scans each of its tables once, and sorts on disk if memory does not suffice.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from sqlalchemy import ForeignKeyConstraint

from docmill.storage.core.schema import ADDED_BY_SHARD, SHARD_KEY, collections_of_tables
from docmill.storage.core.transaction import Transaction

MOST_ROWS = 10  # that are shown of a broken invariant
REPORT = (
    "Keep a backup of the store and report this with the rows: docmill has a bug, or another program wrote to it."
)
ENQUEUE = "Enqueue the source again, which computes only what is missing, and report this."
RECOUNT = "Correct the counts with `docmill db recount`, as the owner of the tables."
ADVICE = {
    "references": "Restore the whole store from one backup: some of its tables are older than others.",
    "texts_in_use": "Remove the texts with `docmill gc`, and report this.",
    "kept_shards": RECOUNT,
    "kept_outcomes": RECOUNT,
    "nothing_forgotten": ENQUEUE,
    "nothing_lost": ENQUEUE,
}
_BLOCK = re.compile(r"^-- (\{?\w+\}?): (.+?)\n(?!--)(.+?)(?=\n\n--|\Z)", re.MULTILINE | re.DOTALL)


# PostgreSQL's statistics may be older than the rows. A plan with nested loops then did not end in 25 minutes for
# 6,000 documents. Without them, a cross join that PostgreSQL cannot avoid counts as so expensive that it would
# compile the query, which takes seconds.
PLANNING: Mapping[str | None, tuple[str, ...]] = {
    None: (),
    "PostgreSQL": ("enable_nestloop = off", "jit = off"),
}


@dataclass(frozen=True)
class Invariant:
    """An invariant: its name, a sentence, the query for the rows that break it, and advice for that case."""

    name: str
    sentence: str
    query: str
    advice: str


Check: TypeAlias = tuple[Invariant, list[dict[str, Any]], float]  # with the first rows that break it, and its seconds


@cache
def invariants(server: str | None) -> tuple[Invariant, ...]:
    """Return the invariants with queries for SQLite (None), or for the server PostgreSQL."""
    parts, made = {"references": _references(), **_KEPT_SHARDS, **_DIALECTS[server]}, []
    for name, sentence, block in _BLOCK.findall(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")):
        query = block.format_map(parts)
        if name.startswith("{"):
            parts[name.strip("{}")] = query
        else:
            made.append(Invariant(name, sentence, query, ADVICE.get(name, REPORT)))
    return tuple(made)


def check_invariants(
    transaction: Transaction, begin: Callable[[Invariant], None] = lambda _: None
) -> Iterator[Check]:
    """Yield each invariant as it was checked in this transaction. Call `begin` before each check."""
    for setting in PLANNING[transaction.server]:
        transaction.exec_driver_sql(f"SET LOCAL {setting}")
    for invariant in invariants(transaction.server):
        begin(invariant)
        began = time.monotonic()
        broken = _read(transaction, f"{invariant.query}\nLIMIT {MOST_ROWS}")
        yield invariant, broken, time.monotonic() - began


def find_broken(transaction: Transaction, name: str) -> list[dict[str, Any]]:
    """Return all rows that break an invariant."""
    [query] = [each.query for each in invariants(transaction.server) if each.name == name]
    return _read(transaction, query)


def _read(transaction: Transaction, query: str) -> list[dict[str, Any]]:
    """Return rows of a query, with PostgreSQL's sums, which are decimal numbers, as integers."""
    rows = transaction.exec_driver_sql(query).mappings()
    return [{key: int(value) if isinstance(value, Decimal) else value for key, value in row.items()} for row in rows]


def _references() -> str:
    """Return the query for rows whose foreign key refers to a missing row."""
    tables = [table for metadata in collections_of_tables() for table in metadata.sorted_tables]
    return "\nUNION ALL\n".join(
        _lacking(constraint)
        for table in tables
        for constraint in sorted(table.foreign_key_constraints, key=lambda constraint: [*constraint.column_keys])
    )


def _lacking(constraint: ForeignKeyConstraint) -> str:
    child, column = constraint.table.name, constraint.column_keys[0]
    same = " AND ".join(f"parent.{key.column.name} = child.{key.parent.name}" for key in constraint.elements)
    return (
        f"SELECT '{child}.{column}' AS reference, CAST(child.{column} AS TEXT) AS lacking FROM {child} AS child\n"  # noqa: S608
        f"    WHERE child.{column} IS NOT NULL\n"
        f"        AND NOT EXISTS (SELECT 1 FROM {constraint.referred_table.name} AS parent WHERE {same})"
    )


_KEPT_SHARDS = {
    "shard_key": ", ".join(SHARD_KEY),
    "of_shards": ", ".join(f"sum({added.format('shard')}) AS {name}" for name, added in ADDED_BY_SHARD.items()),
    "of_counts": ", ".join(f"-{name}" for name in ADDED_BY_SHARD),
    "lacking": ", ".join(f"sum({name}) AS {name}" for name in ADDED_BY_SHARD),
    "differ": " OR ".join(f"sum({name}) <> 0" for name in ADDED_BY_SHARD),
}
# The parts that differ: the little-endian number at place n of a shard's contents, where ids have no more than 48
# bits, and the flags of an outcome, one in a row. SQLite has no function for the value of a byte, but for its place.
_BYTE = "instr(octets, substr(contents, 8 * n + {}, 1)) - 1"
_DIALECTS: Mapping[str | None, Mapping[str, str]] = {
    None: {
        "octets": f"x'{bytes(range(256)).hex()}'",
        "content_id": " + ".join(f"({_BYTE.format(byte + 1)} << {8 * byte})" for byte in range(6)),
        "flags": "json_each(outcome.flags) AS flag",
    },
    "PostgreSQL": {
        "octets": "0",
        "content_id": " + ".join(f"(get_byte(contents, 8 * n + {byte})::bigint << {8 * byte})" for byte in range(6)),
        "flags": "jsonb_array_elements_text(outcome.flags) AS flag (value)",
    },
}
