"""The store's books by plain COUNTs, beside the counts that triggers keep and the figures of the exporter."""

from __future__ import annotations

from collections import Counter
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from docmill.storage.core.database import Database
from docmill.storage.core.transaction import Transaction
from docmill.storage.results.fleet import read_fleet
from docmill.worker.metrics.fleet import FleetCollector
from docmill.worker.metrics.server import exposition

Figures = Counter[tuple[str, ...]]  # by the name of the metric and its label values

RUNS = "JOIN job ON job.id = shard.job_id WHERE job.state IN ('ingesting', 'running') AND NOT job.paused"
BOOKS = {
    "docmill_documents": "SELECT count(*) FROM document WHERE superseded_by IS NULL AND NOT gone",
    "docmill_shards": f"""SELECT shard.lane, shard.state, count(*) FROM shard {RUNS}
        AND shard.state IN ('planned', 'queued', 'running') GROUP BY shard.lane, shard.state""",
    "docmill_suspect_shards": f"""SELECT shard.lane, count(*) FROM shard {RUNS} AND shard.suspect > 0
        AND shard.state IN ('planned', 'queued', 'running') GROUP BY shard.lane""",
    "docmill_commits_total": "SELECT lane, count(*) FROM shard WHERE state = 'done' GROUP BY lane",
    "docmill_failed_texts": """SELECT spec.kind, coalesce(reason_class, ''), count(*) FROM outcome
        JOIN spec ON spec.id = spec_id WHERE status = 'failed' GROUP BY 1, 2""",
}
TEXTS = """SELECT lane, '{0}', sum(n_{0}) FROM shard WHERE state = 'done' GROUP BY lane"""
TOKENS = """SELECT '{0}', shard.lane, spec.model, sum(tokens_{0}) FROM shard JOIN spec ON spec.id = shard.spec_id
    GROUP BY shard.lane, spec.model"""
FLAGS = """SELECT flag.value, spec.kind, count(*) FROM outcome JOIN spec ON spec.id = spec_id
    CROSS JOIN {} GROUP BY 1, 2"""
RECORDS = """SELECT 'changed', sum(n_changed) FROM ingest UNION ALL SELECT 'new', sum(n_new) FROM ingest"""
LAPSES = "docmill_lease_lapses_total"
COMPARED = {
    *BOOKS,
    LAPSES,
    "docmill_texts_total",
    "docmill_tokens_total",
    "docmill_flagged_texts",
    "docmill_records_total",
}
READ_AGAIN = {"unchanged", "repeated", "rejected"}  # an interrupted reading counts these records twice


def counted(database: Database) -> Figures:
    """Return the figures by a COUNT, or a SUM over shards, of every row. Labels are in the order of their names."""
    is_file = database.server is None
    elements = "json_each(outcome.flags) AS flag" if is_file else "jsonb_array_elements_text(flags) AS flag (value)"
    asked = [
        *BOOKS.items(),
        *(("docmill_texts_total", TEXTS.format(status)) for status in ("done", "failed", "skipped")),
        *(("docmill_tokens_total", TOKENS.format(direction)) for direction in ("in", "out")),
        ("docmill_flagged_texts", FLAGS.format(elements)),
        ("docmill_records_total", RECORDS),
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
    """Return the same figures as the exporter tells them."""
    page = exposition(FleetCollector(lambda: read_fleet(database, lanes)))
    found: Figures = Counter()
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = [value for _, value in sorted(sample.labels.items())]
            if sample.name in COMPARED and not {*labels} & READ_AGAIN:
                found[sample.name, *labels] = int(sample.value)
    return +found


def kept(database: Database) -> dict[str, Counter[tuple[Any, ...]]]:
    """Return shards by job, lane, state and suspicion, as the triggers keep them and as they are."""

    def read(transaction: Transaction, query: str) -> Counter[tuple[Any, ...]]:
        return +Counter({tuple(key): int(n) for *key, n in transaction.execute(text(query))})

    key, by_key = "SELECT job_id, lane, state", "GROUP BY job_id, lane, state"
    with database.read() as transaction:
        return {
            "shards kept": read(transaction, f"{key}, sum(n) FROM shard_count {by_key}"),
            "shards": read(transaction, f"{key}, count(*) FROM shard {by_key}"),
            "suspects kept": read(transaction, f"{key}, sum(n_suspect) FROM shard_count {by_key}"),
            "suspects": read(transaction, f"{key}, count(*) FROM shard WHERE suspect > 0 {by_key}"),
        }


def assert_kept(database: Database) -> None:
    """Assert that the kept counts of shards are right."""
    found = kept(database)
    assert found["shards kept"] == found["shards"]
    assert found["suspects kept"] == found["suspects"]


def assert_exported(database: Database, lanes: tuple[str, ...]) -> None:
    """Assert that the exporter's figures equal the books, of a store from which nothing was deleted."""
    assert_kept(database)
    told, there = exported(database, lanes), counted(database)
    if not any(key[0] == LAPSES for key in there):
        told = Counter({key: n for key, n in told.items() if key[0] != LAPSES})
    assert told == there, f"only the exporter: {told - there}; only the books: {there - told}"
