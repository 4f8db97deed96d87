"""Kept counts of shards and of work, and the triggers that keep them.

Also indexes of the shards that ended lately, and of the outcomes that failed or carry flags.

A later migration that recreates `shard`, `outcome` or `ingest` (Alembic's batch mode on SQLite) has to create their
triggers again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import sqlalchemy as sa
from alembic import op

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0030"
down_revision = "0029"

RECORDS = ("new", "changed", "unchanged", "repeated", "rejected")
# Columns of a shard whose growth counts: name, label, expression over the row.
GROWTH = (
    ("texts", "'done'", "{}.n_done"),
    ("texts", "'failed'", "{}.n_failed"),
    ("texts", "'skipped'", "{}.n_skipped"),
    ("tokens_in", "spec.model", "{}.tokens_in"),
    ("tokens_out", "spec.model", "{}.tokens_out"),
    ("lapses", "''", "{}.lapses"),
)
MARKED = {"ix_outcome_not_done": "status <> 'done'", "ix_outcome_flagged": "CAST(flags AS TEXT) <> '[]'"}
WORK = "INSERT INTO work_count (name, lane, label, n)"
SHARDS = "INSERT INTO shard_count (job_id, lane, state, n, n_suspect)"


def upgrade() -> None:
    op.create_table(
        "shard_count",
        sa.Column("id", BIG, nullable=False),
        sa.Column("job_id", BIG, nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("n", BIG, nullable=False),
        sa.Column("n_suspect", BIG, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shard_count")),
    )
    op.create_index("ix_shard_count_job_id_lane_state", "shard_count", ["job_id", "lane", "state"])
    op.create_table(
        "work_count",
        sa.Column("id", BIG, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("n", BIG, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_work_count")),
    )
    op.create_index("ix_work_count_name_lane_label", "work_count", ["name", "lane", "label"])
    bind = op.get_bind()
    if bind.dialect.name == "sqlite":
        _execute(_of_sqlite())
        _index_outcomes()
        _execute(_outcomes_so_far(is_sqlite=True))
    else:
        bind.exec_driver_sql("SET LOCAL statement_timeout = 0")
        _execute(_functions(bind.scalar(sa.text("SELECT current_schema()"))))
        # Triggers keep writers away until the end. A commit writes outcomes, then its shard: in this order nothing
        # deadlocks, and leases are renewed while the outcomes are counted.
        _execute(_triggers("outcome"))
        _index_outcomes()
        _execute(_outcomes_so_far(is_sqlite=False))
        _execute([*_triggers("shard"), *_triggers("ingest")])
    _execute(_so_far())
    finished = sa.text("finished_at IS NOT NULL")
    op.create_index("ix_shard_finished", "shard", ["finished_at"], sqlite_where=finished, postgresql_where=finished)


def _execute(statements: Iterable[str]) -> None:
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)


def _index_outcomes() -> None:
    """Index the outcomes that failed or carry flags."""
    for name, condition in MARKED.items():
        where = sa.text(condition)
        op.create_index(name, "outcome", ["spec_id", "content_id"], sqlite_where=where, postgresql_where=where)


def _so_far() -> Iterator[str]:
    """Yield statements that count what is stored. The parts of a split shard have its lapses, too."""
    yield f"""{SHARDS} SELECT job_id, lane, state, count(*), sum(CASE WHEN suspect > 0 THEN 1 ELSE 0 END)
        FROM shard GROUP BY job_id, lane, state"""
    yield f"{WORK} SELECT 'commits', lane, '', count(*) FROM shard WHERE state = 'done' GROUP BY lane"
    for name, label, value in GROWTH:
        n = value.format("shard")
        yield f"""{WORK} SELECT '{name}', shard.lane, {label}, sum({n})
            FROM shard JOIN spec ON spec.id = shard.spec_id
            WHERE {n} > 0 GROUP BY shard.lane{", spec.model" if label == "spec.model" else ""}"""
    for name in RECORDS:
        yield f"{WORK} SELECT 'records', '', '{name}', coalesce(sum(n_{name}), 0) FROM ingest"


def _outcomes_so_far(is_sqlite: bool) -> Iterator[str]:
    """Yield statements that count the failures and flags that are stored."""
    yield f"""{WORK} SELECT 'failures', spec.kind, coalesce(outcome.reason_class, ''), count(*)
        FROM outcome JOIN spec ON spec.id = outcome.spec_id
        WHERE outcome.status = 'failed' GROUP BY spec.kind, outcome.reason_class"""
    each = "json_each(outcome.flags) AS flag" if is_sqlite else "jsonb_array_elements_text(flags) flag (value)"
    yield f"""{WORK} SELECT 'flags', spec.kind, flag.value, count(*)
        FROM outcome JOIN spec ON spec.id = outcome.spec_id CROSS JOIN {each}
        WHERE CAST(outcome.flags AS TEXT) <> '[]' GROUP BY spec.kind, flag.value"""


# SQLite: one writer at a time, so each key has one row that is changed in its place.


def _of_sqlite() -> Iterator[str]:
    for event, row, sign in (("INSERT", "NEW", 1), ("DELETE", "OLD", -1)):
        yield _trigger(f"count_shard_{event.lower()}", f"{event} ON shard", "true", _add_shard(row, sign))
    yield _trigger(
        "count_shard_update",
        "UPDATE OF state, suspect ON shard",
        "OLD.state <> NEW.state OR (OLD.suspect > 0) <> (NEW.suspect > 0)",
        _add_shard("OLD", -1) + _add_shard("NEW", 1),
    )
    yield _trigger(
        "count_commit",
        "UPDATE OF state ON shard",
        "OLD.state <> 'done' AND NEW.state = 'done'",
        _add_work("commits", "NEW.lane", "''", "1"),
    )
    for number, (name, label, value) in enumerate(GROWTH):
        old, new = value.format("OLD"), value.format("NEW")
        model = "(SELECT model FROM spec WHERE id = NEW.spec_id)" if label == "spec.model" else label
        yield _trigger(
            f"count_growth_{number}",
            f"UPDATE OF {value.format('').lstrip('.')} ON shard",
            f"{new} > {old}",
            _add_work(name, "NEW.lane", model, f"{new} - {old}"),
        )
    # One trigger for each event: SQLite enters each of them for every row, whether its condition holds or not.
    for event, rows in (("INSERT", [("NEW", 1)]), ("DELETE", [("OLD", -1)]), ("UPDATE", [("OLD", -1), ("NEW", 1)])):
        yield _trigger(
            f"count_outcome_{event.lower()}",
            f"{event} ON outcome",
            " OR ".join(f"{row}.status = 'failed' OR {row}.flags <> '[]'" for row, _ in rows),
            " ".join(_add_outcome(row, sign) for row, sign in rows),
        )
    for name in RECORDS:
        yield _trigger(
            f"count_records_{name}",
            f"UPDATE OF n_{name} ON ingest",
            f"NEW.n_{name} > OLD.n_{name}",
            _add_work("records", "''", f"'{name}'", f"NEW.n_{name} - OLD.n_{name}"),
        )


def _trigger(name: str, event: str, condition: str, body: str) -> str:
    return f"CREATE TRIGGER {name} AFTER {event} FOR EACH ROW WHEN {condition} BEGIN {body} END"


def _add_shard(row: str, sign: int) -> str:
    key = f"job_id = {row}.job_id AND lane = {row}.lane AND state = {row}.state"
    return f"""{SHARDS} SELECT {row}.job_id, {row}.lane, {row}.state, 0, 0
        WHERE NOT EXISTS (SELECT 1 FROM shard_count WHERE {key});
    UPDATE shard_count SET n = n + {sign}, n_suspect = n_suspect + {sign} * ({row}.suspect > 0) WHERE {key};"""


def _add_work(name: str, lane: str, label: str, n: str, condition: str = "true") -> str:
    key = f"name = '{name}' AND lane = {lane} AND label = {label}"
    return f"""{WORK} SELECT '{name}', {lane}, {label}, 0
        WHERE {condition} AND NOT EXISTS (SELECT 1 FROM work_count WHERE {key});
    UPDATE work_count SET n = n + {n} WHERE {condition} AND {key};"""


def _add_outcome(row: str, sign: int) -> str:
    kind = f"(SELECT kind FROM spec WHERE id = {row}.spec_id)"
    reason = f"coalesce({row}.reason_class, '')"
    return f"""{_add_work("failures", kind, reason, str(sign), f"{row}.status = 'failed'")}
    {WORK} SELECT 'flags', {kind}, value, 0 FROM json_each({row}.flags)
        WHERE NOT EXISTS (SELECT 1 FROM work_count WHERE name = 'flags' AND lane = {kind} AND label = value);
    UPDATE work_count SET n = n + {sign}
        WHERE name = 'flags' AND lane = {kind} AND label IN (SELECT value FROM json_each({row}.flags));"""


# PostgreSQL: a statement adds a row for each key that it changes, and waits for nobody. Every 500th row or so, the
# statement that adds it merges the rows of keys that have several, but for those that another transaction holds. The
# functions run with the owner's rights: whoever may write to the counted tables needs no right to the counts.

MERGED = 500


def _functions(schema: str) -> Iterator[str]:
    settings = f"""SECURITY DEFINER SET search_path = "{schema}", pg_temp SET plan_cache_mode = force_generic_plan"""

    def function(name: str, body: str) -> str:
        return f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql {settings} AS $$BEGIN {body} END$$"

    yield function("docmill_count_shards", _count_shards())
    yield function("docmill_count_outcomes", _count_outcomes())
    yield function("docmill_count_records", _count_records())
    for table, keys, values in (
        ("shard_count", "job_id, lane, state", ("n", "n_suspect")),
        ("work_count", "name, lane, label", ("n",)),
    ):
        sums = ", ".join(f"sum({value})" for value in values)
        kept = " OR ".join(f"sum({value}) <> 0" for value in values)
        columns = f"{keys}, {', '.join(values)}"
        yield function(
            f"docmill_merge_{table}",
            f"""WITH several AS MATERIALIZED (SELECT {keys} FROM {table} GROUP BY {keys} HAVING count(*) > 1),
                free AS MATERIALIZED (SELECT id FROM {table} JOIN several USING ({keys})
                    ORDER BY id FOR UPDATE OF {table} SKIP LOCKED),
                gone AS (DELETE FROM {table} USING free WHERE {table}.id = free.id RETURNING {table}.*)
            INSERT INTO {table} ({columns}) SELECT {keys}, {sums} FROM gone GROUP BY {keys} HAVING {kept};
            RETURN NULL;""",
        )
        yield f"""CREATE TRIGGER merge_counts AFTER INSERT ON {table} FOR EACH ROW
            WHEN (mod(NEW.id, {MERGED}) = 0 AND pg_trigger_depth() = 1) EXECUTE FUNCTION docmill_merge_{table}()"""


def _triggers(table: str) -> Iterator[str]:
    both = "REFERENCING OLD TABLE AS before NEW TABLE AS after"
    events = {"INSERT": "REFERENCING NEW TABLE AS after", "DELETE": "REFERENCING OLD TABLE AS before", "UPDATE": both}
    functions = {
        "shard": "docmill_count_shards",
        "outcome": "docmill_count_outcomes",
        "ingest": "docmill_count_records",
    }
    for event, rows in events.items():
        if table != "ingest" or event == "UPDATE":  # a reading begins with zeros, and what it read stays counted
            yield f"""CREATE TRIGGER count_{event.lower()} AFTER {event} ON {table} {rows}
                FOR EACH STATEMENT EXECUTE FUNCTION {functions[table]}()"""


def _count_shards() -> str:
    sums = "SELECT job_id, lane, state, {sign} * count(*), {sign} * count(*) FILTER (WHERE suspect > 0)"
    values = ", ".join(
        f"('{name}', {label}, {value.format('after')} - {value.format('before')})" for name, label, value in GROWTH
    )
    ends = "('commits', '', (before.state <> 'done' AND after.state = 'done')::int::bigint)"
    return f"""
    IF TG_OP = 'INSERT' THEN
        {SHARDS} {sums.format(sign=1)} FROM after GROUP BY job_id, lane, state;
    ELSIF TG_OP = 'DELETE' THEN
        {SHARDS} {sums.format(sign=-1)} FROM before GROUP BY job_id, lane, state;
    ELSE
        {SHARDS} SELECT job_id, lane, state, sum(n), sum(suspects) FROM (
            SELECT job_id, lane, state, 1 AS n, (suspect > 0)::int AS suspects FROM after UNION ALL
            SELECT job_id, lane, state, -1, -(suspect > 0)::int FROM before) AS changed
        GROUP BY job_id, lane, state HAVING sum(n) <> 0 OR sum(suspects) <> 0;
        {WORK} SELECT grown.name, after.lane, grown.label, sum(grown.n)
        FROM after JOIN before ON before.id = after.id JOIN spec ON spec.id = after.spec_id
            CROSS JOIN LATERAL (VALUES {values}, {ends}) AS grown (name, label, n)
        WHERE grown.n > 0 GROUP BY grown.name, after.lane, grown.label;
    END IF;
    RETURN NULL;"""


def _count_outcomes() -> str:
    def failures(table: str, sign: int) -> str:
        return f"""SELECT 'failures' AS name, spec_id, coalesce(reason_class, '') AS label, {sign} AS n
            FROM {table} WHERE status = 'failed' UNION ALL
            SELECT 'flags', spec_id, jsonb_array_elements_text(flags), {sign} FROM {table} WHERE flags <> '[]'"""

    def add(changed: str) -> str:
        return f"""{WORK} SELECT changed.name, spec.kind, changed.label, sum(changed.n)
            FROM ({changed}) AS changed JOIN spec ON spec.id = changed.spec_id
            GROUP BY changed.name, spec.kind, changed.label HAVING sum(changed.n) <> 0;"""

    return f"""
    IF TG_OP = 'INSERT' THEN {add(failures("after", 1))}
    ELSIF TG_OP = 'DELETE' THEN {add(failures("before", -1))}
    ELSE {add(failures("after", 1) + " UNION ALL " + failures("before", -1))}
    END IF;
    RETURN NULL;"""


def _count_records() -> str:
    values = ", ".join(f"('{name}', after.n_{name} - before.n_{name})" for name in RECORDS)
    return f"""
    {WORK} SELECT 'records', '', grown.label, sum(grown.n)
    FROM after JOIN before ON before.id = after.id CROSS JOIN LATERAL (VALUES {values}) AS grown (label, n)
    WHERE grown.n > 0 GROUP BY grown.label;
    RETURN NULL;"""
