"""The first release: all tables, indexes and views, and the triggers that keep counts of shards and of work.

A later migration that recreates `shard`, `outcome` or `ingest` (Alembic's batch mode on SQLite) has to create their
triggers again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from alembic import op

revision = "0100"
down_revision = None

# The tables are written in PostgreSQL's words. These are SQLite's for the same.
OF_SQLITE = {
    "BIGSERIAL": "INTEGER",
    "BIGINT": "INTEGER",
    "BYTEA": "BLOB",
    "DOUBLE PRECISION": "DOUBLE",
    "JSONB": "JSON",
    "DEFAULT false": "DEFAULT 0",
}

BOOKKEEPING = """
CREATE TABLE compatibility (
    oldest TEXT NOT NULL,
    CONSTRAINT pk_compatibility PRIMARY KEY (oldest)
);
CREATE TABLE last_id (
    name TEXT NOT NULL,
    id BIGINT NOT NULL,
    CONSTRAINT pk_last_id PRIMARY KEY (name)
);
CREATE TABLE lease (
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    until DOUBLE PRECISION NOT NULL,
    CONSTRAINT pk_lease PRIMARY KEY (name)
);
CREATE TABLE worker (
    id TEXT NOT NULL,
    host TEXT NOT NULL,
    pid BIGINT NOT NULL,
    pid_space TEXT,
    device TEXT NOT NULL,
    lanes JSONB NOT NULL,
    slots BIGINT NOT NULL,
    version TEXT NOT NULL,
    started_at DOUBLE PRECISION NOT NULL,
    seen_at DOUBLE PRECISION NOT NULL,
    consumed_at DOUBLE PRECISION,
    trouble TEXT,
    computed JSONB,
    time_use JSONB,
    device_problem TEXT,
    CONSTRAINT pk_worker PRIMARY KEY (id)
);
"""

DOCUMENTS = """
CREATE TABLE content (
    id BIGSERIAL NOT NULL,
    sha256 BYTEA NOT NULL,
    text TEXT NOT NULL,
    n_chars BIGINT NOT NULL,
    CONSTRAINT pk_content PRIMARY KEY (id),
    CONSTRAINT uq_content_sha256 UNIQUE (sha256)
);
CREATE TABLE corpus (
    id BIGSERIAL NOT NULL,
    name TEXT NOT NULL,
    n_documents BIGINT NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,
    CONSTRAINT pk_corpus PRIMARY KEY (id),
    CONSTRAINT uq_corpus_name UNIQUE (name)
);
CREATE TABLE ingest (
    id BIGSERIAL NOT NULL,
    corpus_id BIGINT NOT NULL,
    source TEXT NOT NULL,
    options JSONB NOT NULL,
    state TEXT NOT NULL,
    n_records BIGINT NOT NULL,
    n_new BIGINT NOT NULL,
    n_changed BIGINT NOT NULL,
    n_unchanged BIGINT NOT NULL,
    n_repeated BIGINT NOT NULL,
    n_rejected BIGINT NOT NULL,
    n_vanished BIGINT DEFAULT '0' NOT NULL,
    not_pruned TEXT,
    started_at DOUBLE PRECISION NOT NULL,
    seen_at DOUBLE PRECISION NOT NULL,
    finished_at DOUBLE PRECISION,
    CONSTRAINT pk_ingest PRIMARY KEY (id),
    CONSTRAINT fk_ingest_corpus_id FOREIGN KEY (corpus_id) REFERENCES corpus (id)
);
CREATE INDEX ix_ingest_corpus_id ON ingest (corpus_id);
CREATE TABLE rejection (
    ingest_id BIGINT NOT NULL,
    place TEXT NOT NULL,
    reason TEXT NOT NULL,
    noted_at DOUBLE PRECISION,
    superseded BOOLEAN DEFAULT false NOT NULL,
    CONSTRAINT pk_rejection PRIMARY KEY (ingest_id, place),
    CONSTRAINT fk_rejection_ingest_id FOREIGN KEY (ingest_id) REFERENCES ingest (id)
);
CREATE TABLE document (
    id BIGSERIAL NOT NULL,
    corpus_id BIGINT NOT NULL,
    key TEXT NOT NULL,
    content_id BIGINT NOT NULL,
    meta JSONB NOT NULL,
    flags JSONB NOT NULL,
    seq BIGINT NOT NULL,
    ingest_id BIGINT NOT NULL,
    gone BOOLEAN DEFAULT false NOT NULL,
    superseded_by BIGINT,
    CONSTRAINT pk_document PRIMARY KEY (id),
    CONSTRAINT fk_document_corpus_id FOREIGN KEY (corpus_id) REFERENCES corpus (id),
    CONSTRAINT fk_document_content_id FOREIGN KEY (content_id) REFERENCES content (id),
    CONSTRAINT fk_document_ingest_id FOREIGN KEY (ingest_id) REFERENCES ingest (id)
);
CREATE INDEX ix_document_content_id_corpus_id ON document (content_id, corpus_id);
CREATE INDEX ix_document_corpus_id_id ON document (corpus_id, id);
CREATE INDEX ix_document_corpus_id_seq_id ON document (corpus_id, seq, id);
CREATE INDEX ix_document_superseded ON document (corpus_id, key) WHERE superseded_by IS NOT NULL;
CREATE UNIQUE INDEX uq_document_current ON document (corpus_id, key) WHERE superseded_by IS NULL;
CREATE TABLE contender (
    ingest_id BIGINT NOT NULL,
    key TEXT NOT NULL,
    document_id BIGINT NOT NULL,
    CONSTRAINT pk_contender PRIMARY KEY (ingest_id, key),
    CONSTRAINT fk_contender_ingest_id FOREIGN KEY (ingest_id) REFERENCES ingest (id),
    CONSTRAINT fk_contender_document_id FOREIGN KEY (document_id) REFERENCES document (id)
);
CREATE INDEX ix_contender_document_id ON contender (document_id);
"""

RESULTS = """
CREATE TABLE spec (
    id BIGSERIAL NOT NULL,
    sha256 BYTEA NOT NULL,
    kind TEXT NOT NULL,
    model TEXT NOT NULL,
    revision TEXT NOT NULL,
    quality TEXT NOT NULL,
    params JSONB NOT NULL,
    dropped_at DOUBLE PRECISION,
    dropped_by TEXT,
    CONSTRAINT pk_spec PRIMARY KEY (id),
    CONSTRAINT uq_spec_sha256 UNIQUE (sha256)
);
CREATE TABLE vector_length (
    spec_id BIGINT NOT NULL,
    numbers BIGINT NOT NULL,
    CONSTRAINT pk_vector_length PRIMARY KEY (spec_id),
    CONSTRAINT fk_vector_length_spec_id FOREIGN KEY (spec_id) REFERENCES spec (id)
);
CREATE TABLE runtime (
    id BIGSERIAL NOT NULL,
    sha256 BYTEA NOT NULL,
    device TEXT NOT NULL,
    precision TEXT NOT NULL,
    backend TEXT NOT NULL,
    versions JSONB NOT NULL,
    CONSTRAINT pk_runtime PRIMARY KEY (id),
    CONSTRAINT uq_runtime_sha256 UNIQUE (sha256)
);
CREATE TABLE outcome (
    spec_id BIGINT NOT NULL,
    content_id BIGINT NOT NULL,
    status TEXT NOT NULL,
    text TEXT,
    vector BYTEA,
    data JSONB,
    reason TEXT,
    reason_class TEXT,
    flags JSONB NOT NULL,
    tokens_in BIGINT NOT NULL,
    tokens_out BIGINT NOT NULL,
    runtime_id BIGINT,
    output_id BIGINT,
    created_at DOUBLE PRECISION NOT NULL,
    confidence DOUBLE PRECISION,
    mean_logprob DOUBLE PRECISION,
    least_logprob DOUBLE PRECISION,
    CONSTRAINT pk_outcome PRIMARY KEY (spec_id, content_id),
    CONSTRAINT fk_outcome_spec_id FOREIGN KEY (spec_id) REFERENCES spec (id),
    CONSTRAINT fk_outcome_content_id FOREIGN KEY (content_id) REFERENCES content (id),
    CONSTRAINT fk_outcome_runtime_id FOREIGN KEY (runtime_id) REFERENCES runtime (id),
    CONSTRAINT fk_outcome_output_id FOREIGN KEY (output_id) REFERENCES content (id)
);
CREATE INDEX ix_outcome_content_id ON outcome (content_id);
CREATE INDEX ix_outcome_flagged ON outcome (spec_id, content_id) WHERE CAST(flags AS TEXT) <> '[]';
CREATE INDEX ix_outcome_not_done ON outcome (spec_id, content_id) WHERE status <> 'done';
CREATE INDEX ix_outcome_output_id ON outcome (output_id) WHERE output_id IS NOT NULL;
CREATE TABLE refusal (
    worker_id TEXT NOT NULL,
    spec_id BIGINT NOT NULL,
    reason TEXT NOT NULL,
    refused_at DOUBLE PRECISION NOT NULL,
    CONSTRAINT pk_refusal PRIMARY KEY (worker_id, spec_id),
    CONSTRAINT fk_refusal_spec_id FOREIGN KEY (spec_id) REFERENCES spec (id)
);
"""

JOBS = """
CREATE TABLE job (
    id BIGSERIAL NOT NULL,
    corpus_id BIGINT NOT NULL,
    ingest_id BIGINT NOT NULL,
    state TEXT NOT NULL,
    paused BOOLEAN NOT NULL,
    reason TEXT,
    priority BIGINT NOT NULL,
    max_failures DOUBLE PRECISION,
    max_flagged DOUBLE PRECISION,
    base_document BIGINT NOT NULL,
    swept_to BIGINT NOT NULL,
    last_document BIGINT,
    n_documents BIGINT NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,
    finished_at DOUBLE PRECISION,
    forgotten_at DOUBLE PRECISION,
    folded_at DOUBLE PRECISION,
    request_id TEXT,
    traceparent TEXT,
    CONSTRAINT pk_job PRIMARY KEY (id),
    CONSTRAINT fk_job_corpus_id FOREIGN KEY (corpus_id) REFERENCES corpus (id),
    CONSTRAINT fk_job_ingest_id FOREIGN KEY (ingest_id) REFERENCES ingest (id)
);
CREATE INDEX ix_job_corpus_id ON job (corpus_id);
CREATE INDEX ix_job_state ON job (state);
CREATE TABLE job_key (
    key TEXT NOT NULL,
    job_id BIGINT NOT NULL,
    arguments JSONB,
    created_at DOUBLE PRECISION NOT NULL,
    CONSTRAINT pk_job_key PRIMARY KEY (key)
);
CREATE INDEX ix_job_key_job_id ON job_key (job_id);
CREATE TABLE step (
    job_id BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    name TEXT DEFAULT 'step' NOT NULL,
    spec_id BIGINT NOT NULL,
    input_step BIGINT,
    n_prior_done BIGINT DEFAULT '0' NOT NULL,
    n_prior_failed BIGINT DEFAULT '0' NOT NULL,
    n_prior_skipped BIGINT DEFAULT '0' NOT NULL,
    n_prior_truncated BIGINT DEFAULT '0' NOT NULL,
    n_retried BIGINT DEFAULT '0' NOT NULL,
    flagged JSONB,
    escalates BIGINT,
    doubted JSONB,
    n_rescued BIGINT DEFAULT '0' NOT NULL,
    leaves_out TEXT,
    CONSTRAINT pk_step PRIMARY KEY (job_id, seq),
    CONSTRAINT fk_step_job_id FOREIGN KEY (job_id) REFERENCES job (id),
    CONSTRAINT fk_step_spec_id FOREIGN KEY (spec_id) REFERENCES spec (id)
);
CREATE TABLE step_text (
    job_id BIGINT NOT NULL,
    step BIGINT NOT NULL,
    content_id BIGINT NOT NULL,
    CONSTRAINT pk_step_text PRIMARY KEY (job_id, step, content_id),
    CONSTRAINT fk_step_text_step FOREIGN KEY (job_id, step) REFERENCES step (job_id, seq),
    CONSTRAINT fk_step_text_content_id FOREIGN KEY (content_id) REFERENCES content (id)
);
CREATE INDEX ix_step_text_content_id ON step_text (content_id);
CREATE TABLE prompt (
    spec_id BIGINT NOT NULL,
    document_id BIGINT NOT NULL,
    text_id BIGINT NOT NULL,
    content_id BIGINT NOT NULL,
    CONSTRAINT pk_prompt PRIMARY KEY (spec_id, document_id, text_id),
    CONSTRAINT fk_prompt_spec_id FOREIGN KEY (spec_id) REFERENCES spec (id),
    CONSTRAINT fk_prompt_document_id FOREIGN KEY (document_id) REFERENCES document (id),
    CONSTRAINT fk_prompt_text_id FOREIGN KEY (text_id) REFERENCES content (id),
    CONSTRAINT fk_prompt_content_id FOREIGN KEY (content_id) REFERENCES content (id)
);
CREATE INDEX ix_prompt_content_id ON prompt (content_id);
CREATE INDEX ix_prompt_document_id ON prompt (document_id);
CREATE INDEX ix_prompt_text_id ON prompt (text_id);
CREATE TABLE shard (
    id BIGSERIAL NOT NULL,
    job_id BIGINT NOT NULL,
    step BIGINT NOT NULL,
    spec_id BIGINT NOT NULL,
    lane TEXT NOT NULL,
    contents BYTEA NOT NULL,
    n_contents BIGINT NOT NULL,
    n_chars BIGINT NOT NULL,
    state TEXT NOT NULL,
    redo BOOLEAN NOT NULL,
    fence BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    suspect BIGINT NOT NULL,
    lapses BIGINT DEFAULT '0' NOT NULL,
    owner TEXT,
    lease_until DOUBLE PRECISION,
    not_before DOUBLE PRECISION NOT NULL,
    dispatched_at DOUBLE PRECISION,
    started_at DOUBLE PRECISION,
    finished_at DOUBLE PRECISION,
    n_done BIGINT NOT NULL,
    n_failed BIGINT NOT NULL,
    n_skipped BIGINT NOT NULL,
    n_truncated BIGINT NOT NULL,
    n_doubtful BIGINT DEFAULT '0' NOT NULL,
    tokens_in BIGINT NOT NULL,
    tokens_out BIGINT NOT NULL,
    CONSTRAINT pk_shard PRIMARY KEY (id),
    CONSTRAINT fk_shard_job_id FOREIGN KEY (job_id) REFERENCES job (id),
    CONSTRAINT fk_shard_spec_id FOREIGN KEY (spec_id) REFERENCES spec (id)
);
CREATE INDEX ix_shard_dispatched ON shard (lane, state, dispatched_at) WHERE dispatched_at IS NOT NULL;
CREATE INDEX ix_shard_finished ON shard (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX ix_shard_job_id_finished_at ON shard (job_id, finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX ix_shard_job_id_state_lane_id ON shard (job_id, state, lane, id);
CREATE INDEX ix_shard_running ON shard (lease_until) WHERE lease_until IS NOT NULL;
"""

PIPELINES = """
CREATE TABLE pipeline (
    id BIGSERIAL NOT NULL,
    name TEXT NOT NULL,
    path TEXT NOT NULL,
    text TEXT NOT NULL,
    schedule JSONB,
    looked_at DOUBLE PRECISION NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,
    updated_at DOUBLE PRECISION NOT NULL,
    CONSTRAINT pk_pipeline PRIMARY KEY (id),
    CONSTRAINT uq_pipeline_name UNIQUE (name)
);
CREATE TABLE pipeline_run (
    id BIGSERIAL NOT NULL,
    pipeline_id BIGINT NOT NULL,
    due_at DOUBLE PRECISION,
    state TEXT NOT NULL,
    reason TEXT,
    job_id BIGINT,
    handed_at DOUBLE PRECISION,
    owner TEXT,
    lease_until DOUBLE PRECISION,
    fence BIGINT DEFAULT '0' NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,
    finished_at DOUBLE PRECISION,
    CONSTRAINT pk_pipeline_run PRIMARY KEY (id),
    CONSTRAINT uq_pipeline_run_pipeline_id_due_at UNIQUE (pipeline_id, due_at),
    CONSTRAINT fk_pipeline_run_pipeline_id FOREIGN KEY (pipeline_id) REFERENCES pipeline (id),
    CONSTRAINT fk_pipeline_run_job_id FOREIGN KEY (job_id) REFERENCES job (id)
);
CREATE INDEX ix_pipeline_run_open ON pipeline_run (state) WHERE finished_at IS NULL;
CREATE INDEX ix_pipeline_run_pipeline_id_id ON pipeline_run (pipeline_id, id);
CREATE TABLE pipeline_run_file (
    run_id BIGINT NOT NULL,
    path TEXT NOT NULL,
    text TEXT NOT NULL,
    CONSTRAINT pk_pipeline_run_file PRIMARY KEY (run_id),
    CONSTRAINT fk_pipeline_run_file_run_id FOREIGN KEY (run_id) REFERENCES pipeline_run (id) ON DELETE CASCADE
);
"""

REPLACEMENTS = """
CREATE TABLE risk_version (
    spec_id BIGINT NOT NULL,
    version BIGINT NOT NULL,
    n_good BIGINT NOT NULL,
    n_bad BIGINT NOT NULL,
    model JSONB NOT NULL,
    quality JSONB NOT NULL,
    fitted_at DOUBLE PRECISION NOT NULL,
    CONSTRAINT pk_risk_version PRIMARY KEY (spec_id, version),
    CONSTRAINT fk_risk_version_spec_id FOREIGN KEY (spec_id) REFERENCES spec (id)
);
CREATE TABLE replacement (
    id BIGSERIAL NOT NULL,
    corpus_id BIGINT NOT NULL,
    old_spec_id BIGINT NOT NULL,
    new_spec_id BIGINT NOT NULL,
    old_job_id BIGINT NOT NULL,
    job_id BIGINT,
    state TEXT NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,
    ended_at DOUBLE PRECISION,
    CONSTRAINT pk_replacement PRIMARY KEY (id),
    CONSTRAINT fk_replacement_corpus_id FOREIGN KEY (corpus_id) REFERENCES corpus (id) ON DELETE CASCADE,
    CONSTRAINT fk_replacement_old_spec_id FOREIGN KEY (old_spec_id) REFERENCES spec (id),
    CONSTRAINT fk_replacement_new_spec_id FOREIGN KEY (new_spec_id) REFERENCES spec (id)
);
CREATE INDEX ix_replacement_corpus_id ON replacement (corpus_id);
CREATE UNIQUE INDEX uq_replacement_filling ON replacement (corpus_id) WHERE state = 'filling';
"""

COUNTS = """
CREATE TABLE shard_count (
    id BIGSERIAL NOT NULL,
    job_id BIGINT NOT NULL,
    lane TEXT NOT NULL,
    state TEXT NOT NULL,
    n BIGINT NOT NULL,
    n_suspect BIGINT NOT NULL,
    CONSTRAINT pk_shard_count PRIMARY KEY (id)
);
CREATE INDEX ix_shard_count_job_id_lane_state ON shard_count (job_id, lane, state);
CREATE TABLE work_count (
    id BIGSERIAL NOT NULL,
    name TEXT NOT NULL,
    lane TEXT NOT NULL,
    label TEXT NOT NULL,
    n BIGINT NOT NULL,
    CONSTRAINT pk_work_count PRIMARY KEY (id)
);
CREATE INDEX ix_work_count_name_lane_label ON work_count (name, lane, label);
"""

VIEWS = """
CREATE VIEW open_shards AS
SELECT shard.lane AS lane,
       shard.state AS state
FROM shard
JOIN job ON job.id = shard.job_id
WHERE shard.state IN ('planned', 'queued', 'running')
    AND job.state IN ('ingesting', 'running')
    AND NOT job.paused;
"""

# PostgreSQL refuses a text under the hash of another. SQLite has no users, and docmill compares there.
HASHED = "ALTER TABLE content ADD CONSTRAINT ck_content_sha256 CHECK (sha256 = sha256(convert_to(text, 'UTF8')))"

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
SHARDS = "INSERT INTO shard_count (job_id, lane, state, n, n_suspect)"


def upgrade() -> None:
    bind = op.get_bind()
    schema = BOOKKEEPING + DOCUMENTS + RESULTS + JOBS + PIPELINES + REPLACEMENTS + COUNTS + VIEWS
    if bind.dialect.name == "sqlite":
        for word, of_sqlite in OF_SQLITE.items():
            schema = schema.replace(word, of_sqlite)
        _execute(schema.split(";\n")[:-1])
        _execute(_triggers_of_sqlite())
    else:
        _execute([*schema.split(";\n")[:-1], HASHED])
        _execute(_functions(bind.exec_driver_sql("SELECT current_schema()").scalar_one()))
        _execute(_triggers_of_postgresql())
    _execute([f"INSERT INTO compatibility (oldest) VALUES ('{revision}')"])
    _execute(f"{WORK} VALUES ('records', '', '{name}', 0)" for name in RECORDS)


def _execute(statements: Iterable[str]) -> None:
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)


# SQLite: one writer at a time, so each key has one row that is changed in its place.


def _triggers_of_sqlite() -> Iterator[str]:
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


def _triggers_of_postgresql() -> Iterator[str]:
    both = "REFERENCING OLD TABLE AS before NEW TABLE AS after"
    events = {"INSERT": "REFERENCING NEW TABLE AS after", "DELETE": "REFERENCING OLD TABLE AS before", "UPDATE": both}
    counted = [(table, event) for table in ("outcome", "shard") for event in events]
    # A reading begins with zeros, and what it read stays counted.
    for table, event in (*counted, ("ingest", "UPDATE")):
        function = {"outcome": "outcomes", "shard": "shards", "ingest": "records"}[table]
        yield f"""CREATE TRIGGER count_{event.lower()} AFTER {event} ON {table} {events[event]}
            FOR EACH STATEMENT EXECUTE FUNCTION docmill_count_{function}()"""


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
