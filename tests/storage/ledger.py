"""Figures of a fleet by plain COUNTs of rows, compared with the figures of the exporter."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import text

from docmill.storage.core.database import Database
from docmill.storage.results.fleet import read_fleet
from docmill.storage.steps.sharding import OPEN_SHARDS
from tests.storage.invariants import assert_invariants

Figures = Counter[tuple[str, ...]]  # by the name of the figure, and its lane, state, model and the like

RUNS = "JOIN job ON job.id = shard.job_id WHERE job.state IN ('ingesting', 'running') AND NOT job.paused"
COUNTS = {
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


def count_figures(database: Database) -> Figures:
    """Return the figures by a COUNT, or a SUM over shards, of every row. Labels are in the order of their names."""
    queries = [
        *COUNTS.items(),
        *(("texts", TEXTS.format(status)) for status in ("done", "failed", "skipped")),
        *(("tokens", TOKENS.format(direction)) for direction in ("in", "out")),
        ("records", RECORDS),
    ]
    figures: Figures = Counter()
    with database.read() as transaction:
        if transaction.scalar(text("SELECT count(*) FROM shard WHERE state = 'split' AND lapses > 0")) == 0:
            # The parts of a split shard have its lapses, too.
            queries.append((LAPSES, "SELECT lane, sum(lapses) FROM shard GROUP BY lane"))
        for name, query in queries:
            for *labels, n in transaction.execute(text(query)):
                figures[name, *labels] = int(n or 0)
    return +figures


def read_figures(database: Database, lanes: tuple[str, ...]) -> Figures:
    """Return the same figures as the exporter reads them."""
    fleet = read_fleet(database, lanes)
    work = fleet.work
    figures: Figures = Counter({("documents",): fleet.documents})
    for lane in fleet.lanes:
        figures["suspect_shards", lane.name] = lane.suspects
        for state in OPEN_SHARDS:
            figures["shards", lane.name, state] = getattr(lane, state)
    by_name = {"commits": work.commits, "lease_lapses": work.lapses, "records": work.records}
    figures |= {
        (name, key): n for name, counts in by_name.items() for key, n in counts.items() if key not in READ_AGAIN
    }
    figures |= {("texts", *key): n for key, n in work.texts.items()}
    figures |= {("tokens", "in", *key): n for key, n in work.tokens_in.items()}
    figures |= {("tokens", "out", *key): n for key, n in work.tokens_out.items()}
    return +figures


def assert_exported(database: Database, lanes: tuple[str, ...]) -> None:
    """Assert that the exporter's figures equal the counts of rows, in a store from which nothing was deleted."""
    assert_invariants(database, "kept_shards", "kept_outcomes")
    by_exporter, by_count = read_figures(database, lanes), count_figures(database)
    with database.read() as transaction:  # as the autoscaler of the Helm chart reads them
        by_autoscaler = Counter(
            ("shards", *row) for row in transaction.execute(text("SELECT lane, state FROM open_shards"))
        )
    assert by_autoscaler == {key: n for key, n in by_count.items() if key[0] == "shards"}
    if not any(key[0] == LAPSES for key in by_count):
        by_exporter = Counter({key: n for key, n in by_exporter.items() if key[0] != LAPSES})
    assert by_exporter == by_count, (
        f"only the exporter: {by_exporter - by_count}; only the counts: {by_count - by_exporter}"
    )
