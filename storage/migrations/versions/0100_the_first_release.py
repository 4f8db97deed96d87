"""The first release: the tables of the schema, two views, and the triggers that keep counts of shards and of work.

Nothing has been released, so the tables are those that the schema has now. The release that makes them final writes
them out here: what a later migration changes is a store of that release, and not of the schema of its day.

A later migration that recreates `shard`, `outcome` or `ingest` (Alembic's batch mode on SQLite) has to create their
triggers again, and the views.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from alembic import op

from docmill.storage.core.schema import ADDED_BY_SHARD, SHARD_KEY, Base

revision = "0100"
down_revision = None

OPEN_SHARDS = """CREATE VIEW open_shards AS
SELECT shard.lane AS lane,
       shard.state AS state
FROM shard
JOIN job ON job.id = shard.job_id
WHERE shard.state IN ('planned', 'queued', 'running')
    AND job.state IN ('ingesting', 'running')
    AND NOT job.paused
    AND (shard.state = 'running' OR NOT EXISTS (
        SELECT 1 FROM budget WHERE budget.name IN (job.budget, job.sharer)
            AND budget.spent >= budget.max_cost * 0.999999999))"""

# Where a step reads the documents, it computes their contents or prompts; else what the steps before put out.
RESULTS = """CREATE VIEW results AS
SELECT job.id AS job, corpus.name AS corpus, document.key AS document, base.name AS step, spec.kind AS task,
    {model} AS model, {columns}
FROM job
JOIN corpus ON corpus.id = job.corpus_id
JOIN step ON step.job_id = job.id
JOIN step AS base ON base.job_id = job.id AND base.seq = coalesce(step.escalates, step.seq)
    AND base.input_step IS NULL
JOIN spec ON spec.id = step.spec_id
JOIN document ON {visible}
LEFT JOIN prompt ON prompt.spec_id = base.spec_id AND prompt.document_id = document.id
    AND prompt.text_id = document.content_id
JOIN outcome ON outcome.spec_id = step.spec_id AND outcome.status = 'done'
    AND outcome.content_id = coalesce(prompt.content_id, document.content_id)
UNION ALL
SELECT job.id, corpus.name, document.key, base.name, spec.kind, {model}, {columns}
FROM job
JOIN corpus ON corpus.id = job.corpus_id
JOIN step ON step.job_id = job.id
JOIN step AS base ON base.job_id = job.id AND base.seq = coalesce(step.escalates, step.seq)
    AND base.input_step IS NOT NULL
JOIN spec ON spec.id = step.spec_id
JOIN document ON {visible}
{outcome_of_reached}"""
VISIBLE = """document.corpus_id = job.corpus_id AND NOT document.gone
    AND document.id <= coalesce(job.last_document, 9223372036854775807)
    AND (document.superseded_by IS NULL OR document.superseded_by > job.last_document)"""
REACHED = """WITH RECURSIVE reached (seq, content_id) AS (
        SELECT first.seq, coalesce(prompt.content_id, document.content_id)
        FROM step AS first
        LEFT JOIN prompt ON prompt.spec_id = first.spec_id AND prompt.document_id = document.id
            AND prompt.text_id = document.content_id
        WHERE first.job_id = job.id AND first.input_step IS NULL AND first.escalates IS NULL
        UNION
        SELECT following.seq, coalesce(prompt.content_id, before.output_id)
        FROM reached
        JOIN step AS source ON source.job_id = job.id AND coalesce(source.escalates, source.seq) = reached.seq
        JOIN outcome AS before ON before.spec_id = source.spec_id AND before.content_id = reached.content_id
        JOIN step AS following ON following.job_id = job.id AND following.input_step = reached.seq
            AND following.escalates IS NULL
        LEFT JOIN prompt ON prompt.spec_id = following.spec_id AND prompt.document_id = document.id
            AND prompt.text_id = before.output_id
        WHERE before.output_id IS NOT NULL
    ) SELECT content_id FROM reached WHERE seq = base.seq"""
RESULTS_OF_SQLITE = RESULTS.format(
    visible=VISIBLE,
    model="coalesce(json_extract(spec.params, '$.adapter'), spec.model)",
    columns="""CASE WHEN json_type(outcome.data, '$.labels') IS NULL THEN outcome.text END AS text,
    CASE WHEN json_type(outcome.data, '$.labels') IS NOT NULL THEN outcome.text END AS label,
    json_extract(outcome.data, '$.labels[0].score') AS score, outcome.data AS data, outcome.vector AS vector,
    (SELECT json_group_array(value) FROM (SELECT value FROM json_each(document.flags)
        UNION ALL SELECT value FROM json_each(outcome.flags))) AS flags,
    datetime(outcome.created_at, 'unixepoch') AS computed_at, datetime(job.created_at, 'unixepoch') AS job_created_at,
    datetime(job.finished_at, 'unixepoch') AS job_finished_at""",
    outcome_of_reached=f"""JOIN outcome ON outcome.spec_id = step.spec_id AND outcome.status = 'done'
    AND outcome.content_id IN ({REACHED})""",
)
RESULTS_OF_POSTGRESQL = RESULTS.format(
    visible=VISIBLE,
    model="coalesce(spec.params ->> 'adapter', spec.model)",
    columns="""CASE WHEN outcome.data -> 'labels' IS NULL THEN outcome.text END AS text,
    CASE WHEN outcome.data -> 'labels' IS NOT NULL THEN outcome.text END AS label,
    CAST(outcome.data #>> '{labels,0,score}' AS double precision) AS score, outcome.data AS data,
    VECTOR AS vector, document.flags || outcome.flags AS flags, to_timestamp(outcome.created_at) AS computed_at,
    to_timestamp(job.created_at) AS job_created_at, to_timestamp(job.finished_at) AS job_finished_at""",
    outcome_of_reached=f"""CROSS JOIN LATERAL ({REACHED}) AS reached
JOIN outcome ON outcome.spec_id = step.spec_id AND outcome.status = 'done'
    AND outcome.content_id = reached.content_id""",
)
# Little-endian float32 numbers; NULL for the vectors of several windows.
PGVECTOR = """CASE WHEN outcome.data -> 'windows' IS NULL THEN (
        SELECT CAST(CAST(array_agg(sign * fraction * power(2::float8, exponent) ORDER BY place) AS real[]) AS vector)
        FROM (
            SELECT place, CASE WHEN bits < 0 THEN -1 ELSE 1 END AS sign,
                greatest(bits >> 23 & 255, 1) - 150 AS exponent,
                (bits & 8388607) + CASE WHEN bits >> 23 & 255 = 0 THEN 0 ELSE 8388608 END AS fraction
            FROM (
                SELECT place, get_byte(outcome.vector, 4 * place) | (get_byte(outcome.vector, 4 * place + 1) << 8)
                    | (get_byte(outcome.vector, 4 * place + 2) << 16)
                    | (get_byte(outcome.vector, 4 * place + 3) << 24) AS bits
                FROM generate_series(0, length(outcome.vector) / 4 - 1) AS place
            ) AS words
        ) AS numbers
    ) END"""

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
WORK = "INSERT INTO work_count (name, lane, label, n)"
SHARDS = f"INSERT INTO shard_count ({', '.join((*SHARD_KEY, *ADDED_BY_SHARD))})"


def upgrade() -> None:
    bind = op.get_bind()
    Base.metadata.create_all(bind)
    _execute([OPEN_SHARDS])
    if bind.dialect.name == "sqlite":
        _execute([RESULTS_OF_SQLITE, *_triggers_of_sqlite()])
    else:
        has_vectors = bind.exec_driver_sql("SELECT to_regtype('vector')").scalar_one() is not None
        _execute([results_of_postgresql(has_pgvector=has_vectors)])
        _execute(_functions(bind.exec_driver_sql("SELECT current_schema()").scalar_one()))
        _execute(_triggers_of_postgresql())
    _execute([f"INSERT INTO compatibility (oldest) VALUES ('{revision}')"])
    _execute(f"{WORK} VALUES ('records', '', '{name}', 0)" for name in RECORDS)


def results_of_postgresql(*, has_pgvector: bool) -> str:
    """Return the statement that makes the view of results, with vectors as bytes if pgvector is not there."""
    return RESULTS_OF_POSTGRESQL.replace("VECTOR", PGVECTOR if has_pgvector else "outcome.vector")


def _execute(statements: Iterable[str]) -> None:
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)


# SQLite: one writer at a time, so each key has one row that is changed in its place.


def _triggers_of_sqlite() -> Iterator[str]:
    for event, row, sign in (("INSERT", "NEW", 1), ("DELETE", "OLD", -1)):
        yield _trigger(f"count_shard_{event.lower()}", f"{event} ON shard", "true", _add_shard(row, sign))
    compared = (*(f"{{}}.{name}" for name in SHARD_KEY), *ADDED_BY_SHARD.values())
    differs = (f"{each.format('OLD')} <> {each.format('NEW')}" for each in compared)
    yield _trigger(
        "count_shard_update",
        "UPDATE ON shard",
        " OR ".join(differs),
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
    key = " AND ".join(f"{name} = {row}.{name}" for name in SHARD_KEY)
    sums = ", ".join(f"{name} = {name} + {sign} * {added.format(row)}" for name, added in ADDED_BY_SHARD.items())
    return f"""{SHARDS} SELECT {", ".join(f"{row}.{name}" for name in SHARD_KEY)}{", 0" * len(ADDED_BY_SHARD)}
        WHERE NOT EXISTS (SELECT 1 FROM shard_count WHERE {key});
    UPDATE shard_count SET {sums} WHERE {key};"""


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
# statement that adds it merges the recent rows of keys that have several, but for those that another transaction
# holds. Merged rows are recent again; the dead rows of days, which an old snapshot keeps, are not looked at. The
# functions run with the owner's rights: whoever may write to the counted tables needs no right to the counts.

MERGED, RECENT = 500, 20_000


def _functions(schema: str) -> Iterator[str]:
    settings = f"""SECURITY DEFINER SET search_path = "{schema}", pg_temp SET plan_cache_mode = force_generic_plan"""

    def function(name: str, body: str) -> str:
        return f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql {settings} AS $$BEGIN {body} END$$"

    yield function("docmill_count_shards", _count_shards())
    yield function("docmill_count_outcomes", _count_outcomes())
    yield function("docmill_count_records", _count_records())
    for table, keys, values in (
        ("shard_count", ", ".join(SHARD_KEY), tuple(ADDED_BY_SHARD)),
        ("work_count", "name, lane, label", ("n",)),
    ):
        sums = ", ".join(f"sum({value})" for value in values)
        kept = " OR ".join(f"sum({value}) <> 0" for value in values)
        columns = f"{keys}, {', '.join(values)}"
        yield function(
            f"docmill_merge_{table}",
            f"""WITH several AS MATERIALIZED (SELECT {keys} FROM {table} WHERE id > NEW.id - {RECENT}
                    GROUP BY {keys} HAVING count(*) > 1),
                free AS MATERIALIZED (SELECT id FROM {table} JOIN several USING ({keys})
                    WHERE id > NEW.id - {RECENT} ORDER BY id FOR UPDATE OF {table} SKIP LOCKED),
                gone AS (DELETE FROM {table} USING free WHERE {table}.id = free.id RETURNING {table}.*)
            INSERT INTO {table} ({columns}) SELECT {keys}, {sums} FROM gone GROUP BY {keys} HAVING {kept};
            RETURN NULL;""",
        )
        yield f"""CREATE TRIGGER merge_counts AFTER INSERT ON {table} FOR EACH ROW
            WHEN (mod(NEW.id, {MERGED}) = 0 AND pg_trigger_depth() = 1) EXECUTE FUNCTION docmill_merge_{table}()"""


def _triggers_of_postgresql() -> Iterator[str]:
    both = "REFERENCING OLD TABLE AS before NEW TABLE AS after"
    events = {"INSERT": "REFERENCING NEW TABLE AS after", "DELETE": "REFERENCING OLD TABLE AS before", "UPDATE": both}
    counted = [(table, event) for table in ("outcome", "shard") for event in events]
    # A reading begins with zeros, and what it read stays counted.
    for table, event in (*counted, ("ingest", "UPDATE")):
        function = {"outcome": "outcomes", "shard": "shards", "ingest": "records"}[table]
        yield f"""CREATE TRIGGER count_{event.lower()} AFTER {event} ON {table} {events[event]}
            FOR EACH STATEMENT EXECUTE FUNCTION docmill_count_{function}()"""


def _sums_of(row: str, sign: str) -> str:
    return ", ".join(f"sum({sign} * {added.format(row)}) AS {name}" for name, added in ADDED_BY_SHARD.items())


def _count_shards() -> str:
    key = ", ".join(SHARD_KEY)
    values = ", ".join(
        f"('{name}', {label}, {value.format('after')} - {value.format('before')})" for name, label, value in GROWTH
    )
    ends = "('commits', '', (before.state <> 'done' AND after.state = 'done')::int::bigint)"
    return f"""
    IF TG_OP = 'INSERT' THEN
        {SHARDS} SELECT {key}, {_sums_of("after", "1")} FROM after GROUP BY {key};
    ELSIF TG_OP = 'DELETE' THEN
        {SHARDS} SELECT {key}, {_sums_of("before", "-1")} FROM before GROUP BY {key};
    ELSE
        {SHARDS} SELECT * FROM (
            SELECT {key}, {_sums_of("changed", "sign")} FROM (
                SELECT 1 AS sign, * FROM after UNION ALL SELECT -1, * FROM before) AS changed GROUP BY {key}) AS sums
        WHERE {" OR ".join(f"sums.{name} <> 0" for name in ADDED_BY_SHARD)};
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
