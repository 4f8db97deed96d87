"""The store's books by plain COUNTs, beside the figures of the exporter."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import text

from docmill.storage.core.database import Database
from docmill.storage.results.fleet import read_fleet
from docmill.storage.steps.sharding import OPEN_SHARDS
from tests.storage.invariants import assert_invariants

Figures = Counter[tuple[str, ...]]  # by the name of the figure, and its lane, state, model and the like

RUNS = "JOIN job ON job.id = shard.job_id WHERE job.state IN ('ingesting', 'running') AND NOT job.paused"
BOOKS = {
    "documents": "SELECT count(*) FROM document WHERE superseded_by IS NULL AND NOT gone",
    "shards": f"""SELECT shard.lane, shard.state, count(*) FROM shard {RUNS}
        AND shard.state IN ('planned', 'queued', 'running') GROUP BY shard.lane, shard.state""",
    "suspect_shards": f"""SELECT shard.lane, count(*) FROM shard {RUNS} AND shard.suspect > 0
        AND shard.state IN ('planned', 'queued', 'running') GROUP BY shard.lane""",
    "commits": "SELECT lane, count(*) FROM shard WHERE state = 'done' GROUP BY lane",
}
TEXTS = """SELECT lane, '{0}', sum(n_{0}) FROM shard WHERE state = 'done' GROUP BY lane"""
TOKENS = """SELECT '{0}', shard.lane, spec.model, sum(tokens_{0}) FROM shard JOIN spec ON spec.id = shard.spec_id
    GROUP BY shard.lane, spec.model"""
RECORDS = """SELECT 'changed', sum(n_changed) FROM ingest UNION ALL SELECT 'new', sum(n_new) FROM ingest"""
LAPSES = "lease_lapses"
READ_AGAIN = {"unchanged", "repeated", "rejected"}  # an interrupted reading counts these records twice


def counted(database: Database) -> Figures:
    """Return the figures by a COUNT, or a SUM over shards, of every row. Labels are in the order of their names."""
    asked = [
        *BOOKS.items(),
        *(("texts", TEXTS.format(status)) for status in ("done", "failed", "skipped")),
        *(("tokens", TOKENS.format(direction)) for direction in ("in", "out")),
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
    found |= {
        (name, key): n for name, counts in by_name.items() for key, n in counts.items() if key not in READ_AGAIN
    }
    found |= {("texts", *key): n for key, n in work.texts.items()}
    found |= {("tokens", "in", *key): n for key, n in work.tokens_in.items()}
    found |= {("tokens", "out", *key): n for key, n in work.tokens_out.items()}
    return +found


def assert_exported(database: Database, lanes: tuple[str, ...]) -> None:
    """Assert that the exporter's figures equal the books, of a store from which nothing was deleted."""
    assert_invariants(database, "kept_shards", "kept_outcomes")
    told, there = exported(database, lanes), counted(database)
    with database.read() as transaction:  # as the autoscaler of the Helm chart reads them
        seen = Counter(("shards", *row) for row in transaction.execute(text("SELECT lane, state FROM open_shards")))
    assert seen == {key: n for key, n in there.items() if key[0] == "shards"}
    if not any(key[0] == LAPSES for key in there):
        told = Counter({key: n for key, n in told.items() if key[0] != LAPSES})
    assert told == there, f"only the exporter: {told - there}; only the books: {there - told}"
