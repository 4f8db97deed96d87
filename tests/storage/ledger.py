"""The store's books by plain COUNTs, beside the counts that triggers keep and the figures of the exporter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from sqlalchemy import text

from docmill.storage.core.database import Database
from docmill.storage.core.schema import ADDED_BY_SHARD, SHARD_KEY
from docmill.storage.core.transaction import Transaction
from docmill.storage.results.fleet import read_fleet
from docmill.storage.steps.sharding import OPEN_SHARDS

Figures = Counter[tuple[str, ...]]  # by the name of the figure, and its lane, state, model and the like

RUNS = "JOIN job ON job.id = shard.job_id WHERE job.state IN ('ingesting', 'running') AND NOT job.paused"
BOOKS = {
    "documents": "SELECT count(*) FROM document WHERE superseded_by IS NULL AND NOT gone",
    "shards": f"""SELECT shard.lane, shard.state, count(*) FROM shard {RUNS}
        AND shard.state IN ('planned', 'queued', 'running') GROUP BY shard.lane, shard.state""",
    "suspect_shards": f"""SELECT shard.lane, count(*) FROM shard {RUNS} AND shard.suspect > 0
        AND shard.state IN ('planned', 'queued', 'running') GROUP BY shard.lane""",
    "commits": "SELECT lane, count(*) FROM shard WHERE state = 'done' GROUP BY lane",
    "failed_texts": """SELECT spec.kind, coalesce(reason_class, ''), count(*) FROM outcome
        JOIN spec ON spec.id = spec_id WHERE status = 'failed' GROUP BY 1, 2""",
}
TEXTS = """SELECT lane, '{0}', sum(n_{0}) FROM shard WHERE state = 'done' GROUP BY lane"""
TOKENS = """SELECT '{0}', shard.lane, spec.model, sum(tokens_{0}) FROM shard JOIN spec ON spec.id = shard.spec_id
    GROUP BY shard.lane, spec.model"""
FLAGS = """SELECT flag.value, spec.kind, count(*) FROM outcome JOIN spec ON spec.id = spec_id
    CROSS JOIN {} GROUP BY 1, 2"""
RECORDS = """SELECT 'changed', sum(n_changed) FROM ingest UNION ALL SELECT 'new', sum(n_new) FROM ingest"""
LAPSES = "lease_lapses"
READ_AGAIN = {"unchanged", "repeated", "rejected"}  # an interrupted reading counts these records twice


def counted(database: Database) -> Figures:
    """Return the figures by a COUNT, or a SUM over shards, of every row. Labels are in the order of their names."""
    is_file = database.server is None
    elements = "json_each(outcome.flags) AS flag" if is_file else "jsonb_array_elements_text(flags) AS flag (value)"
    asked = [
        *BOOKS.items(),
        *(("texts", TEXTS.format(status)) for status in ("done", "failed", "skipped")),
        *(("tokens", TOKENS.format(direction)) for direction in ("in", "out")),
        ("flagged_texts", FLAGS.format(elements)),
        ("records", RECORDS),
    ]
    found: Figures = Counter()
    with database.read() as transaction:
        if transaction.scalar(text("SELECT count(*) FROM shard WHERE state = 'split' AND lapses > 0")) == 0:
            # The parts of a split shard have its lapses, too.
            asked.append((LAPSES, "SELECT lane, sum(lapses) FROM shard GROUP BY lane"))
        for name, query in asked:
            for *labels, n in transaction.execute(text(query)):
                found[name, *labels] = int(n or 0)
    return +found


def exported(database: Database, lanes: tuple[str, ...]) -> Figures:
    """Return the same figures as an exporter reads them."""
    fleet = read_fleet(database, lanes)
    work = fleet.work
    found: Figures = Counter({("documents",): fleet.documents})
    for lane in fleet.lanes:
        found["suspect_shards", lane.name] = lane.suspects
        for state in OPEN_SHARDS:
            found["shards", lane.name, state] = getattr(lane, state)
    by_name = {"commits": work.commits, "lease_lapses": work.lapses, "records": work.records}
    by_pair = {"texts": work.texts, "failed_texts": work.failures}
    found |= {
        (name, key): n for name, counts in by_name.items() for key, n in counts.items() if key not in READ_AGAIN
    }
    found |= {(name, *key): n for name, counts in by_pair.items() for key, n in counts.items()}
    found |= {("tokens", "in", *key): n for key, n in work.tokens_in.items()}
    found |= {("tokens", "out", *key): n for key, n in work.tokens_out.items()}
    found |= {("flagged_texts", flag, lane): n for (lane, flag), n in work.flags.items()}
    return +found


def kept(database: Database) -> tuple[Counter[tuple[Any, ...]], Counter[tuple[Any, ...]]]:
    """Return the sums over shards by job, step, lane and state, as the triggers keep them and as they are."""
    key = ", ".join(SHARD_KEY)

    def read(transaction: Transaction, table: str, values: Iterable[str]) -> Counter[tuple[Any, ...]]:
        sums = ", ".join(f"sum({value})" for value in values)
        query = text(f"SELECT {key}, {sums} FROM {table} GROUP BY {key}")
        n = len(SHARD_KEY)
        return Counter(
            {
                (name, *row[:n]): int(value)
                for row in transaction.execute(query)
                for name, value in zip(ADDED_BY_SHARD, row[n:], strict=True)
                if value
            }
        )

    with database.read() as transaction:
        are = [added.format("shard") for added in ADDED_BY_SHARD.values()]
        return read(transaction, "shard_count", ADDED_BY_SHARD), read(transaction, "shard", are)


def assert_kept(database: Database) -> None:
    """Assert that the kept counts of shards are right."""
    there, are = kept(database)
    assert there == are


def assert_exported(database: Database, lanes: tuple[str, ...]) -> None:
    """Assert that the exporter's figures equal the books, of a store from which nothing was deleted."""
    assert_kept(database)
    told, there = exported(database, lanes), counted(database)
    if not any(key[0] == LAPSES for key in there):
        told = Counter({key: n for key, n in told.items() if key[0] != LAPSES})
    assert told == there, f"only the exporter: {told - there}; only the books: {there - told}"
