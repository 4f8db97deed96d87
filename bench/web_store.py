"""Fill a large store by SQL, for the benchmark of the web page: jobs in all states, their documents and results.

The rows are like those that docmill writes, but no model runs. Half of the documents belong to one corpus, the
archive, and the others to 200 corpora with nightly jobs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import psycopg

from docmill.storage.core.schema import ADDED_BY_SHARD, SHARD_KEY
from docmill.storage.outputs.output_types import TEXT
from docmill.tasks.kinds import STORED_KINDS as KINDS

CORPORA = 200
SHARD = 256  # contents
PIPELINES = 60
RUNS = 200  # of each pipeline
UNCOMPUTED = 43  # a document of the archive without a result
LARGE = ["content", "document", "outcome"]
_SETTINGS = ("synchronous_commit = off", "maintenance_work_mem = '1GB'", "session_replication_role = replica")
_INDEXES = """SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
WHERE indrelid = ANY(%s::regclass[]) AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)"""
_CONSTRAINTS = """SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE {} = ANY(%s::regclass[]) AND contype IN ({})"""


@dataclass(frozen=True)
class Size:
    """The number of jobs and the number of documents in a store."""

    jobs: int = 10_000
    documents: int = 10_000_000

    @property
    def archive_documents(self) -> int:
        """The number of documents in the archive, the largest corpus."""
        return self.documents // 2

    @property
    def other_documents(self) -> int:
        """The number of documents in each other corpus."""
        return (self.documents - self.archive_documents) // CORPORA

    def count_before(self, job: int) -> int:
        """Return the number of documents before those of a job's corpus."""
        return 0 if job % 500 == 0 else self.archive_documents + job % CORPORA * self.other_documents

    def list_values(self) -> Mapping[str, str]:
        """Return the values of the placeholders in `STATEMENTS`."""
        kinds = ",".join(f"'{name}'" for name, kind in sorted(KINDS.items()) if kind.output is TEXT)
        numbers = {
            "jobs": self.jobs,
            "documents": self.archive_documents + CORPORA * self.other_documents,
            "archive": self.archive_documents,
            "other": self.other_documents,
            "corpora": CORPORA,
            "shard": SHARD,
            "pipelines": PIPELINES,
            "runs": RUNS,
        }
        return {name: str(value) for name, value in numbers.items()} | {"kinds": f"ARRAY[{kinds}]"}


_KEY = ", ".join(SHARD_KEY)
_SUMS = ", ".join(f"sum({added.format('shard')})" for added in ADDED_BY_SHARD.values())

# Corpus 1 is the archive. A content has the same id as its document, and the ids follow the order of the corpora.
STATEMENTS: tuple[str, ...] = (
    """INSERT INTO spec (id, sha256, kind, model, revision, quality, params)
    SELECT s, sha256(int8send(s)), ({kinds})[1 + s % array_length({kinds}, 1)], 'models/' || s, 'main', 'float32',
      '{{}}' FROM generate_series(1, 24) s""",
    """INSERT INTO runtime (id, sha256, device, precision, backend, versions)
    SELECT r, sha256(int8send(r)), 'cuda:' || r, 'float16', 'torch', '{{}}' FROM generate_series(1, 3) r""",
    """INSERT INTO corpus (id, name, n_documents, created_at)
    SELECT c, CASE c WHEN 1 THEN 'archive' ELSE 'corpus-' || c END, CASE c WHEN 1 THEN {archive} ELSE {other} END,
      extract(epoch FROM now()) - 400 * 86400 FROM generate_series(1, 1 + {corpora}) c""",
    """INSERT INTO ingest (id, corpus_id, source, options, state, n_records, n_unchanged, started_at, seen_at,
      finished_at, n_new, n_changed, n_repeated, n_rejected)
    SELECT j, corpus, '/data/corpus-' || corpus, '{{}}', 'read', n, n, at, at + 60, at + 60, 0, 0, 0, j % 7
    FROM (SELECT j, CASE WHEN j % 500 = 0 THEN 1 ELSE 2 + j % {corpora} END AS corpus,
      CASE WHEN j % 500 = 0 THEN {archive} ELSE {other} END AS n,
      extract(epoch FROM now()) - ({jobs} - j) * 3600.0 AS at FROM generate_series(1, {jobs}) j) jobs""",
    """INSERT INTO content (id, sha256, text, n_chars)
    SELECT d, sha256(convert_to(t, 'UTF8')), t, 80 FROM (SELECT d, 'Document ' || d || ' of the archive, and some '
      || 'words more, for it has a text.' AS t FROM generate_series(1, {documents}) d) texts""",
    """INSERT INTO document (id, corpus_id, key, content_id, meta, flags, seq, ingest_id, gone)
    SELECT d, c, 'document-' || d, d, '{{}}', '[]', d, CASE c WHEN 1 THEN 500 ELSE 1 + (c + 197) % {corpora} END,
      false FROM (SELECT d, CASE WHEN d <= {archive} THEN 1 ELSE 2 + (d - {archive} - 1) / {other} END AS c
      FROM generate_series(1, {documents}) d) documents""",
    """INSERT INTO outcome (spec_id, content_id, status, text, reason, reason_class, flags, tokens_in, tokens_out,
      runtime_id, created_at)
    SELECT CASE WHEN d <= {archive} THEN 1 ELSE 1 + (2 + (d - {archive} - 1) / {other}) % 12 END, d,
      CASE WHEN d % 97 = 0 THEN 'failed' WHEN d % 1009 = 0 THEN 'skipped' ELSE 'done' END,
      CASE WHEN d % 97 = 0 OR d % 1009 = 0 THEN NULL ELSE 'The output for document ' || d END,
      CASE WHEN d % 970 = 0 THEN 'the server said 503 to request ' || d
        WHEN d % 97 = 0 THEN (ARRAY['out of memory with one text', 'the text is empty', 'no answer within 60 s'])
          [1 + d / 97 % 3] WHEN d % 1009 = 0 THEN 'the text is longer than the model reads' END,
      CASE WHEN d % 97 = 0 THEN (ARRAY['transient', 'document', 'model'])[1 + d / 97 % 3]
        WHEN d % 1009 = 0 THEN 'document' END,
      CASE WHEN d % 97 = 0 OR d % 1009 = 0 THEN '[]'::jsonb WHEN d % 41 = 0 THEN '["output_truncated"]'
        WHEN d % 53 = 0 THEN '["repetition", "language:fr"]' WHEN d % 59 = 0 THEN '["windowed"]' ELSE '[]' END,
      20, 12, 1 + d % 3, CASE WHEN d <= {archive}
        THEN (SELECT started_at FROM ingest WHERE id = 500) + 2.0 * (1 + (d - 1) / {shard}) + 7.9
        ELSE extract(epoch FROM now()) - 86400 * (d % 300) END
    FROM generate_series(1, {documents}) d""",
    """INSERT INTO job (id, corpus_id, ingest_id, state, paused, reason, priority, base_document, swept_to,
      last_document, n_documents, created_at, finished_at)
    SELECT j, i.corpus_id, j, CASE WHEN j > {jobs} - 120 THEN 'running' WHEN j % 31 = 0 THEN 'cancelled'
      WHEN j % 97 = 0 THEN 'stopped' ELSE 'done' END, j > {jobs} - 20 AND j % 4 = 0,
      CASE WHEN j <= {jobs} - 120 AND j % 31 <> 0 AND j % 97 = 0 THEN 'more than 5 % of the texts failed' END,
      j % 3, 0, {documents}, {documents}, i.n_records, i.started_at,
      CASE WHEN j <= {jobs} - 120 THEN i.started_at + 1800 END
    FROM generate_series(1, {jobs}) j JOIN ingest i ON i.id = j""",
    """INSERT INTO step (job_id, seq, name, spec_id, n_prior_done)
    SELECT id, 0, 'step', CASE corpus_id WHEN 1 THEN 1 ELSE 1 + corpus_id % 12 END,
      CASE WHEN corpus_id > 1 THEN n_documents - {shard} WHEN id = 500 OR id > {jobs} - 1000 THEN 0
        ELSE n_documents END FROM job""",
    # The archive's first job computed everything, the last but one is half done, and the last one waits.
    """INSERT INTO shard (job_id, step, spec_id, lane, contents, n_contents, n_chars, state, redo, fence, attempt,
      suspect, owner, lease_until, not_before, dispatched_at, started_at, finished_at, n_done, n_failed, n_skipped,
      n_truncated, tokens_in, tokens_out)
    SELECT job, 0, spec, kind, packed, {shard}, 80 * {shard}, state, false,
      1, 1, 0, CASE state WHEN 'planned' THEN NULL ELSE 'worker-' || k % 40 END,
      CASE state WHEN 'running' THEN at + 60 END, 0, CASE state WHEN 'planned' THEN NULL ELSE at END,
      CASE WHEN state IN ('running', 'done') THEN at END, CASE state WHEN 'done' THEN at + 8 END,
      CASE state WHEN 'done' THEN {shard} - 3 ELSE 0 END, CASE state WHEN 'done' THEN 3 ELSE 0 END, 0,
      CASE state WHEN 'done' THEN 5 ELSE 0 END, CASE state WHEN 'done' THEN 20 * {shard} ELSE 0 END,
      CASE state WHEN 'done' THEN 12 * {shard} ELSE 0 END
    FROM (SELECT j.id AS job, k, s.id AS spec, s.kind, CASE j.corpus_id WHEN 1 THEN (k - 1) * {shard}
        ELSE {archive} + (j.corpus_id - 1) * {other} - {shard} END AS first,
      CASE WHEN j.state <> 'running' THEN 'done'
        WHEN j.corpus_id > 1 THEN CASE j.id % 3 WHEN 0 THEN 'planned' WHEN 1 THEN 'queued' ELSE 'running' END
        WHEN j.id < {jobs} AND k <= n / 2 THEN 'done' WHEN j.id < {jobs} AND k <= n / 2 + 64 THEN 'running'
        ELSE 'planned' END AS state,
      CASE WHEN j.id = 500 THEN j.created_at + k * 2.0 ELSE j.created_at + k * 0.3 END AS at
      FROM job j JOIN step ON step.job_id = j.id JOIN spec s ON s.id = step.spec_id
      CROSS JOIN LATERAL (SELECT CASE WHEN j.corpus_id > 1 THEN 1 WHEN j.id IN (500, {jobs} - 500, {jobs})
        THEN {archive} / {shard} ELSE 0 END AS n) n CROSS JOIN LATERAL generate_series(1, n) k) shards
    CROSS JOIN LATERAL (SELECT decode(string_agg(substr(h, 7, 2) || substr(h, 5, 2) || substr(h, 3, 2)
        || substr(h, 1, 2) || '00000000', '' ORDER BY d), 'hex') AS packed
      FROM generate_series(first + 1, first + {shard}) d
      CROSS JOIN LATERAL (SELECT lpad(to_hex(d), 8, '0') AS h) hexadecimal) contents""",
    "UPDATE job SET state = 'running', finished_at = NULL WHERE id = {jobs} - 500",
    """UPDATE shard SET state = CASE WHEN id % 2 = 0 THEN 'done' ELSE 'planned' END,
      n_done = CASE WHEN id % 2 = 0 THEN {shard} - 3 ELSE 0 END, dispatched_at = CASE WHEN id % 2 = 0
      THEN dispatched_at END, finished_at = CASE WHEN id % 2 = 0 THEN finished_at END,
      tokens_in = CASE WHEN id % 2 = 0 THEN tokens_in ELSE 0 END WHERE job_id = {jobs} - 500""",
    f"DELETE FROM outcome WHERE content_id = {UNCOMPUTED}",
    # The jobs of corpus 2 embed with a model without weights, so that the corpus can be searched.
    """INSERT INTO spec (id, sha256, kind, model, revision, quality, params)
    VALUES (25, sha256(int8send(25)), 'embed', 'null', 'null:1', 'float32', '{{}}')""",
    "UPDATE step SET spec_id = 25 WHERE job_id IN (SELECT id FROM job WHERE corpus_id = 2)",
    "UPDATE shard SET spec_id = 25, lane = 'embed' WHERE job_id IN (SELECT id FROM job WHERE corpus_id = 2)",
    """INSERT INTO outcome (spec_id, content_id, status, vector, flags, tokens_in, tokens_out, runtime_id, created_at)
    SELECT 25, d, 'done', vector, '[]', 20, 0, 1, extract(epoch FROM now()) - 86400 * (d % 300)
    FROM generate_series({archive} + 1, {archive} + {other}) d CROSS JOIN LATERAL (
      SELECT decode(string_agg(h || '4' || left(h, 1) || CASE WHEN h < '8' THEN '3f' ELSE 'bf' END, ''), 'hex')
        AS vector
      FROM (SELECT substr(md5(d::text), 1 + 4 * i, 4) AS h FROM generate_series(0, 7) i) numbers) vectors""",
    # The triggers that update these counts are off while the store is filled.
    f"""INSERT INTO shard_count ({_KEY}, {", ".join(ADDED_BY_SHARD)})
    SELECT {_KEY}, {_SUMS} FROM shard GROUP BY {_KEY}""",
    """INSERT INTO work_count (name, lane, label, n)
    SELECT 'texts', lane, 'done', sum(n_done) FROM shard GROUP BY lane""",
    """INSERT INTO worker (id, host, pid, device, lanes, slots, version, started_at, seen_at, consumed_at)
    SELECT 'worker-' || w, 'host-' || w / 4, 1000 + w, 'cuda:' || w % 4, to_jsonb({kinds}), 8, '1.0', at, at, at
    FROM (SELECT w, extract(epoch FROM now()) AS at FROM generate_series(0, 39) w) workers""",
    """INSERT INTO refusal (worker_id, spec_id, reason, refused_at)
    SELECT 'worker-' || w, s, 'the model needs 24 GiB of memory, and the device has 16', extract(epoch FROM now())
    FROM generate_series(0, 39) w, generate_series(13, 18) s""",
    """INSERT INTO pipeline (id, name, path, text, schedule, looked_at, created_at, updated_at)
    SELECT p, 'nightly-' || p, '/data', '', jsonb_build_object('cron', p || ' 2 * * *', 'timezone', 'Europe/Paris',
      'overlap', 'skip'), at, at, at
    FROM (SELECT p, extract(epoch FROM now()) AS at FROM generate_series(1, {pipelines}) p) pipelines""",
    """INSERT INTO pipeline_run (pipeline_id, due_at, state, reason, job_id, created_at, finished_at)
    SELECT 1 + r % {pipelines}, at, CASE r % 50 WHEN 0 THEN 'failed' ELSE 'done' END,
      CASE r % 50 WHEN 0 THEN 'the source is not there' END, 1 + r % {jobs}, at, at + 1800
    FROM (SELECT r, extract(epoch FROM now()) - ({pipelines} * {runs} - r) * 1440.0 AS at
      FROM generate_series(1, {pipelines} * {runs}) r) runs""",
)


def fill(url: str, size: Size) -> Iterator[tuple[str, float]]:
    """Fill an empty PostgreSQL store. Yield the name of each finished part, with its seconds.

    The three large tables become unlogged and lose the foreign keys that refer to them: the store is only read.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        for setting in _SETTINGS:
            connection.execute(f"SET {setting}")
        indexes = connection.execute(_INDEXES, [LARGE]).fetchall()
        unique_keys = connection.execute(_CONSTRAINTS.format("conrelid", "'u', 'p'"), [LARGE]).fetchall()
        foreign_keys = connection.execute(_CONSTRAINTS.format("confrelid", "'f'"), [LARGE]).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        for table, name, _ in (*foreign_keys, *unique_keys):
            connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        for table in reversed(LARGE):
            connection.execute(f"ALTER TABLE {table} SET UNLOGGED")
        for statement in STATEMENTS:
            part = statement.split("(")[0].strip()
            yield from _execute_timed(connection, part, [statement.format(**size.list_values())])
        add_keys = [
            f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}" for table, name, definition in unique_keys
        ]
        yield from _execute_timed(connection, "indexes", [*add_keys, *(definition for _, definition in indexes)])
        yield from _execute_timed(connection, "vacuum", ["VACUUM (ANALYZE)"])


def _execute_timed(
    connection: psycopg.Connection, part: str, statements: Sequence[str]
) -> Iterator[tuple[str, float]]:
    began = time.monotonic()
    for statement in statements:
        connection.execute(statement)
    yield part, time.monotonic() - began
