-- What holds of a store at every moment. A block is an invariant: its name, a sentence, and the query for the rows
-- that break it. A name in braces is a part of queries. `docmill doctor --invariants --sql` prints whole queries.
-- Retention and removal delete what others have counted. A query leaves out a job or a spec from which rows were
-- deleted where it could not tell that from a loss: job.forgotten_at, job.folded_at, spec.dropped_at.

-- {open}: The states of a shard that has yet to end.
('planned', 'queued', 'running')

-- {unfinished}: The states of a job that has yet to end.
('ingesting', 'running')

-- {kept}: No result of the spec was dropped since the job was made.
(spec.dropped_at IS NULL OR spec.dropped_at < job.created_at)

-- {visible}: The document belongs to the job, whose source has been read.
document.corpus_id = job.corpus_id AND NOT document.gone AND document.id <= job.last_document
    AND (document.superseded_by IS NULL OR document.superseded_by > job.last_document)

-- {reads_documents}: The step reads all documents, or their prompts.
step.input_step IS NULL AND step.escalates IS NULL AND step.leaves_out IS NULL

-- {its_prompt}: The prompt that such a step computes in place of the document.
prompt ON prompt.spec_id = step.spec_id AND prompt.document_id = document.id AND prompt.text_id = document.content_id

-- {slice}: Shards; their state follows. substr unpacks a stored value once, and not for each byte that is read.
RECURSIVE slice AS MATERIALIZED (
    SELECT id, job_id, step, spec_id, state, redo, substr(contents, 1) AS contents, {octets} AS octets
    FROM shard WHERE state

-- {held}: The texts of these shards, one in a row. CROSS JOIN has SQLite take the shards first.
), place (n) AS (
    SELECT 0 UNION ALL SELECT n + 1 FROM place WHERE 8 * n + 8 < (SELECT max(length(contents)) FROM slice)
), held AS (
    SELECT id AS shard_id, job_id, step, spec_id, state, redo, octets, substr(contents, 8 * n + 1, 8) AS packed,
        {content_id} AS content_id
    FROM slice CROSS JOIN place WHERE 8 * n < length(contents)
)

-- {met}: The texts that jobs have met at their steps: unfinished jobs, and later those with rows in step_text.
met AS (
    SELECT job.id AS job_id, step.seq AS step, step.spec_id,
        coalesce(prompt.content_id, document.content_id) AS content_id
    FROM job JOIN step ON step.job_id = job.id AND {reads_documents}
    JOIN document ON document.corpus_id = job.corpus_id AND NOT document.gone
        AND (document.ingest_id = job.ingest_id OR (document.id <= job.swept_to
            AND (document.superseded_by IS NULL OR document.superseded_by > job.base_document)))
    LEFT JOIN {its_prompt}
    WHERE job.state IN {unfinished} OR (job.state = 'done' AND job.forgotten_at IS NULL
        AND EXISTS (SELECT 1 FROM step_text WHERE step_text.job_id = job.id))
    UNION
    SELECT job.id, step.seq, step.spec_id, step_text.content_id
    FROM job JOIN step ON step.job_id = job.id
    JOIN step_text ON step_text.job_id = job.id AND step_text.step = step.seq WHERE job.forgotten_at IS NULL
)

-- references: Every row that another row refers to is there.
{references}

-- one_outcome: A text has one outcome under a spec.
SELECT spec_id, content_id, count(*) AS outcomes FROM outcome GROUP BY spec_id, content_id HAVING count(*) > 1

-- outcome_status: An outcome is done, failed or skipped. A failure has a reason, and only what is done has an output.
SELECT spec_id, content_id, status, reason_class, output_id FROM outcome
WHERE status <> 'done' AND (status NOT IN ('failed', 'skipped') OR output_id IS NOT NULL
    OR (status = 'failed' AND (reason IS NULL OR reason_class IS NULL)))

-- vector_lengths: All vectors of a spec have the same length.
SELECT outcome.spec_id, outcome.content_id, length(outcome.vector) AS bytes, vector_length.numbers
FROM outcome LEFT JOIN vector_length ON vector_length.spec_id = outcome.spec_id
WHERE outcome.vector IS NOT NULL AND (vector_length.numbers IS NULL OR length(outcome.vector) = 0
    OR length(outcome.vector) / (4 * vector_length.numbers) * 4 * vector_length.numbers <> length(outcome.vector))

-- texts_in_use: A stored text belongs to a document or a prompt, or is an output.
SELECT id AS content_id FROM content
WHERE NOT EXISTS (SELECT 1 FROM document WHERE document.content_id = content.id)
    AND NOT EXISTS (SELECT 1 FROM prompt WHERE prompt.content_id = content.id)
    AND NOT EXISTS (SELECT 1 FROM outcome WHERE outcome.output_id = content.id)
    AND NOT EXISTS (SELECT 1 FROM step_text WHERE step_text.content_id = content.id)

-- current_versions: A document has one current version.
SELECT corpus_id, key, count(*) AS current_versions FROM document
WHERE superseded_by IS NULL GROUP BY corpus_id, key HAVING count(*) > 1
UNION ALL
SELECT old.corpus_id, old.key, 0 FROM document AS old
WHERE old.superseded_by IS NOT NULL AND NOT EXISTS (SELECT 1 FROM document AS new
    WHERE new.corpus_id = old.corpus_id AND new.key = old.key AND new.superseded_by IS NULL)

-- same_corpus: A document and a job belong to the corpus of their reading.
SELECT 'document' AS row_of, document.id, document.corpus_id, ingest.corpus_id AS corpus_of_reading
FROM document JOIN ingest ON ingest.id = document.ingest_id WHERE ingest.corpus_id <> document.corpus_id
UNION ALL
SELECT 'job', job.id, job.corpus_id, ingest.corpus_id
FROM job JOIN ingest ON ingest.id = job.ingest_id WHERE ingest.corpus_id <> job.corpus_id

-- corpus_counts: A corpus counts its current documents that have not vanished.
SELECT corpus.id AS corpus_id, corpus.n_documents, count(document.id) AS documents
FROM corpus LEFT JOIN document
    ON document.corpus_id = corpus.id AND document.superseded_by IS NULL AND NOT document.gone
GROUP BY corpus.id, corpus.n_documents HAVING count(document.id) <> corpus.n_documents

-- job_counts: The last job of a corpus that is done counts all of its documents.
SELECT job.id AS job_id, job.n_documents, count(document.id) AS documents
FROM job JOIN document ON {visible}
WHERE job.id IN (SELECT max(id) FROM job WHERE state = 'done' GROUP BY corpus_id)
GROUP BY job.id, job.n_documents HAVING count(document.id) > job.n_documents

-- job_states: The state of a job agrees with its times, its pause, and the state of its reading.
SELECT job.id AS job_id, job.state, job.paused, job.finished_at, job.last_document, ingest.state AS reading
FROM job JOIN ingest ON ingest.id = job.ingest_id
WHERE job.state NOT IN ('ingesting', 'running', 'done', 'cancelled', 'stopped')
    OR (job.finished_at IS NULL) <> (job.state IN {unfinished}) OR (job.paused AND job.state NOT IN {unfinished})
    OR (job.state IN ('running', 'done') AND (job.last_document IS NULL OR ingest.state <> 'read'))
    OR (job.state = 'ingesting' AND (job.last_document IS NOT NULL OR ingest.state <> 'reading'))

-- finished_jobs: A job that is done has no open shard.
SELECT job.id AS job_id, shard.id AS shard_id, shard.state FROM job JOIN shard ON shard.job_id = job.id
WHERE job.state = 'done' AND shard.state IN {open}

-- run_states: A run of a pipeline has an end time if and only if it has ended.
SELECT id AS run_id, state, finished_at FROM pipeline_run
WHERE state NOT IN ('due', 'reading', 'running', 'done', 'failed', 'skipped')
    OR (finished_at IS NULL) <> (state IN ('due', 'reading', 'running'))

-- step_inputs: A step reads or escalates an earlier step of its job.
SELECT step.job_id, step.seq AS step, step.input_step, step.escalates
FROM step LEFT JOIN step AS earlier ON earlier.job_id = step.job_id AND earlier.seq < step.seq
    AND earlier.seq = coalesce(step.escalates, step.input_step)
WHERE coalesce(step.escalates, step.input_step) IS NOT NULL AND earlier.seq IS NULL

-- shard_steps: A shard belongs to a step of its job, and has the spec of that step.
SELECT shard.id AS shard_id, shard.job_id, shard.step, shard.spec_id, step.spec_id AS spec_of_step
FROM shard LEFT JOIN step ON step.job_id = shard.job_id AND step.seq = shard.step
WHERE step.spec_id IS NULL OR step.spec_id <> shard.spec_id

-- shard_leases: A shard has a lease while it runs, and its fence is never behind its attempts.
SELECT id AS shard_id, state, owner, lease_until, dispatched_at, finished_at, fence, attempt, suspect, lapses
FROM shard
WHERE (lease_until IS NULL) = (state = 'running') OR (owner IS NULL AND state = 'running')
    OR (owner IS NOT NULL AND state NOT IN ('running', 'done'))
    OR (dispatched_at IS NULL AND state IN ('queued', 'running')) OR (dispatched_at IS NOT NULL AND state = 'planned')
    OR (finished_at IS NULL AND state = 'done' AND length(contents) > 0)
    OR (finished_at IS NOT NULL AND state <> 'done')
    OR fence < attempt OR attempt < 0 OR lapses < 0 OR suspect NOT IN (0, 1, 2)

-- shard_counts: A finished shard counts an outcome for each of its texts, and an open one counts none.
SELECT id AS shard_id, state, n_contents, length(contents) / 8 AS texts, n_done, n_failed, n_skipped FROM shard
WHERE state NOT IN ('planned', 'queued', 'running', 'done', 'split') OR length(contents) / 8 * 8 <> length(contents)
    OR (length(contents) = 0 AND state <> 'done') OR (state = 'split' AND (n_contents <> 0 OR n_chars <> 0))
    OR (state <> 'split' AND length(contents) > 0 AND n_contents <> length(contents) / 8)
    OR n_done + n_failed + n_skipped <> CASE state WHEN 'done' THEN n_contents ELSE 0 END
    OR n_truncated > n_done OR n_doubtful > n_contents

-- planned_once: A step plans a text once, and once more for each retry after the shard before has ended.
WITH {slice} <> 'split' {held}
SELECT job_id, step, {content_id} AS content_id, shards
FROM (SELECT held.job_id, held.step, held.packed AS contents, 0 AS n, max(held.octets) AS octets, count(*) AS shards
    FROM held JOIN job ON job.id = held.job_id JOIN spec ON spec.id = held.spec_id
    WHERE {kept} GROUP BY held.job_id, held.step, held.packed
    HAVING sum(CASE WHEN held.redo THEN 0 ELSE 1 END) > 1
        OR sum(CASE WHEN held.state IN {open} THEN 1 ELSE 0 END) > 1) AS twice

-- retry_counts: A step counts the texts that it tries again.
SELECT step.job_id, step.seq AS step, step.n_retried, sum(shard.n_contents) AS in_shards
FROM step JOIN job ON job.id = step.job_id JOIN spec ON spec.id = step.spec_id
LEFT JOIN shard ON shard.job_id = step.job_id AND shard.step = step.seq AND shard.redo AND shard.state <> 'split'
WHERE job.folded_at IS NULL AND job.forgotten_at IS NULL AND {kept}
GROUP BY step.job_id, step.seq, step.n_retried HAVING coalesce(sum(shard.n_contents), 0) <> step.n_retried

-- step_counts: A step counts every text that it has met, as planned or as known before.
WITH {met}, planned AS (
    SELECT job_id, step, sum(n_contents) AS n FROM shard WHERE state <> 'split' AND NOT redo GROUP BY job_id, step
)
SELECT step.job_id, step.seq AS step, count(*) AS texts, max(planned.n) AS planned,
    step.n_prior_done + step.n_prior_failed + step.n_prior_skipped AS known_before
FROM met JOIN step ON step.job_id = met.job_id AND step.seq = met.step
LEFT JOIN planned ON planned.job_id = met.job_id AND planned.step = met.step
GROUP BY step.job_id, step.seq, step.n_prior_done, step.n_prior_failed, step.n_prior_skipped
HAVING count(*) > step.n_prior_done + step.n_prior_failed + step.n_prior_skipped + coalesce(max(planned.n), 0)

-- nothing_forgotten: Every text that a step has met has an outcome, or is in an open shard of that step.
WITH {slice} IN {open} {held}, {met}
SELECT met.job_id, met.step, met.content_id
FROM met JOIN job ON job.id = met.job_id JOIN spec ON spec.id = met.spec_id
LEFT JOIN outcome ON outcome.spec_id = met.spec_id AND outcome.content_id = met.content_id
WHERE outcome.content_id IS NULL AND {kept}
EXCEPT SELECT job_id, step, content_id FROM held

-- outputs_passed_on: Every output of a step, unless it failed before, has reached the steps that read it alone, without metadata.
WITH {slice} IN {open} {held}, {met}, failed AS (
    SELECT met.job_id, met.step, count(*) AS n FROM met
    JOIN outcome ON outcome.spec_id = met.spec_id AND outcome.content_id = met.content_id AND outcome.status = 'failed'
    GROUP BY met.job_id, met.step
), tried AS (
    SELECT job_id, step, sum(n_failed) AS n_failed FROM shard GROUP BY job_id, step
)
SELECT met.job_id, met.step, met.content_id
FROM met JOIN job ON job.id = met.job_id AND job.forgotten_at IS NULL JOIN spec ON spec.id = met.spec_id
JOIN step ON step.job_id = met.job_id AND step.seq = met.step
JOIN step AS reader ON reader.job_id = met.job_id AND reader.input_step = met.step
    AND reader.flagged IS NULL AND reader.escalates IS NULL
JOIN spec AS its ON its.id = reader.spec_id
    AND replace(replace(CAST(its.params AS TEXT), 'meta.', ''), 'messages', '') = CAST(its.params AS TEXT)
JOIN outcome ON outcome.spec_id = met.spec_id AND outcome.content_id = met.content_id AND outcome.status = 'done'
LEFT JOIN tried ON tried.job_id = met.job_id AND tried.step = met.step
LEFT JOIN failed ON failed.job_id = met.job_id AND failed.step = met.step
WHERE {kept}
    AND NOT EXISTS (SELECT 1 FROM step AS other WHERE other.job_id = met.job_id AND other.escalates = met.step)
    AND NOT EXISTS (SELECT 1 FROM step_text WHERE step_text.job_id = met.job_id AND step_text.step = reader.seq
        AND step_text.content_id = outcome.output_id)
    AND step.n_prior_failed - step.n_retried + coalesce(tried.n_failed, 0) <= coalesce(failed.n, 0)
EXCEPT SELECT job_id, step, content_id FROM held

-- nothing_lost: Every document of a job that is done has an outcome at the steps that read documents.
SELECT step.spec_id, document.id AS document_id, document.key
FROM (SELECT DISTINCT job.corpus_id, step.spec_id
    FROM job JOIN step ON step.job_id = job.id AND {reads_documents} JOIN spec ON spec.id = step.spec_id
    WHERE job.state = 'done' AND {kept}) AS step
JOIN document ON document.corpus_id = step.corpus_id AND NOT document.gone
LEFT JOIN {its_prompt}
LEFT JOIN outcome ON outcome.spec_id = step.spec_id
    AND outcome.content_id = coalesce(prompt.content_id, document.content_id)
WHERE outcome.content_id IS NULL AND EXISTS (SELECT 1
    FROM job JOIN step AS its ON its.job_id = job.id AND its.spec_id = step.spec_id JOIN spec ON spec.id = its.spec_id
    WHERE {visible} AND job.state = 'done' AND {kept}
        AND its.input_step IS NULL AND its.escalates IS NULL AND its.leaves_out IS NULL)

-- results_kept: The texts of a finished shard have the outcomes that it counted, unless results were dropped since.
WITH {slice} = 'done' {held}
SELECT shard.id AS shard_id, shard.n_contents, count(outcome.content_id) AS outcomes, shard.n_done, shard.n_skipped
FROM held JOIN shard ON shard.id = held.shard_id JOIN spec ON spec.id = held.spec_id
LEFT JOIN outcome ON outcome.spec_id = held.spec_id AND outcome.content_id = held.content_id
WHERE spec.dropped_at IS NULL OR spec.dropped_at < shard.finished_at
GROUP BY shard.id, shard.n_contents, shard.n_done, shard.n_skipped
HAVING count(*) > count(outcome.content_id) OR sum(CASE outcome.status WHEN 'done' THEN 1 ELSE 0 END) < shard.n_done
    OR sum(CASE outcome.status WHEN 'skipped' THEN 1 ELSE 0 END) < shard.n_skipped

-- kept_shards: The kept counts of shards are those of the rows.
SELECT {shard_key}, {lacking}
FROM (SELECT {shard_key}, {of_shards} FROM shard GROUP BY {shard_key}
    UNION ALL SELECT {shard_key}, {of_counts} FROM shard_count) AS counts
GROUP BY {shard_key} HAVING {differ}

-- kept_outcomes: The kept counts of failures and flags are those of the stored outcomes.
SELECT name, lane, label, sum(n) AS n
FROM (SELECT 'failures' AS name, spec.kind AS lane, coalesce(reason_class, '') AS label, count(*) AS n
    FROM outcome JOIN spec ON spec.id = outcome.spec_id
    WHERE status <> 'done' AND status = 'failed' GROUP BY spec.kind, coalesce(reason_class, '')
    UNION ALL SELECT 'flags', spec.kind, flag.value, count(*)
    FROM outcome JOIN spec ON spec.id = outcome.spec_id CROSS JOIN {flags}
    WHERE CAST(outcome.flags AS TEXT) <> '[]' GROUP BY spec.kind, flag.value
    UNION ALL SELECT name, lane, label, -n FROM work_count WHERE name IN ('failures', 'flags')) AS counts
GROUP BY name, lane, label HAVING sum(n) <> 0
