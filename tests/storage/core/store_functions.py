"""Every function of the store that takes a database, and the rows that they are called with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import text

from storage import migrations
from storage.core import corpus, get_or_create
from storage.core.database import Database
from storage.deletion import aged_results, cost, folding, gc, removal, replaced, retention, rounds, selection, tracing
from storage.deletion.ages import Ages
from storage.duplicates import clusters, methods, report
from storage.ingest import ingest, pruning
from storage.ingest.unread import Unread
from storage.leases import dispatch, grace, health, maintenance, shards
from storage.leases.shards import Claim, Head
from storage.outputs.output_types import TEXT
from storage.pipelines import pipelines, switching
from storage.pipelines.pipelines import Run
from storage.results import (
    appearances,
    backlog,
    columnar,
    corpora,
    fingerprint,
    flag_counts,
    job_lists,
    marked,
    overview,
    pairs,
    queue,
    recount,
    results,
    status,
    worker_list,
)
from storage.results.pairs import Side
from storage.search import searchable
from storage.steps import job_keys, jobs, replacements
from storage.steps.job_keys import IdempotencyKey
from storage.steps.jobs import OpenJob
from storage.steps.replacements import Replacement
from storage.steps.steps import OpenStep
from tests.storage.builders import COPY, claim_next, done, failed, lapse, numbered, queued, read, records, request

RUNTIME = {"device": "cpu", "precision": "float32", "backend": "stub", "versions": {}}

OTHER = replace(COPY, model="copier-2")
CHANGE = Replacement(1, 1, "books", 1, 2, COPY, OTHER, 1, None, "filling", 1.0, None)
DUE = pipelines.Scheduled(id=1, name="nightly", schedule={"overlap": "queue"}, looked_at=0.0, now=2.0)
RUN = Run(1, 1, "nightly", 1.0, "reading", None)
JOB = OpenJob(
    id=1, ingest_id=1, corpus_id=1, steps=(OpenStep(0, "copy", 1, "copy", None),), adopted=False, last_before=9
)
SIDE = Side(1, JOB.steps, COPY, TEXT)
HEAD = Head(shard_id=1, fence=0, lane="copy", suspect=False, spec_id=1, spec=COPY)
CLAIM = Claim(
    shard_id=1,
    job_id=1,
    fence=1,
    owner="w1",
    attempt=1,
    suspect=0,
    redo=False,
    spec_id=1,
    contents=(1,),
    texts=((1, "text 0"),),
)

MODULES = (
    overview,
    backlog,
    appearances,
    *(marked, queue, searchable, worker_list),
    *(clusters, job_lists, report),
    *(gc, corpora, corpus, cost, dispatch, grace, health, ingest, jobs, fingerprint, migrations, pipelines, pruning),
    *(
        job_keys,
        flag_counts,
        removal,
        retention,
        rounds,
        folding,
        aged_results,
        results,
        get_or_create,
        selection,
        shards,
        status,
        tracing,
        maintenance,
        recount,
    ),
    *(columnar, pairs, replaced, replacements, switching),
)
READS: dict[str, Callable[[Database], Any]] = {
    "appearances.find_documents": partial(appearances.find_documents, key="k0"),
    "backlog.read_backlog": partial(backlog.read_backlog, lanes=["copy"]),
    "cost.of_collecting": cost.of_collecting,
    "cost.of_dropping": partial(cost.of_dropping, older_than_s=0.0),
    "cost.of_removing": partial(cost.of_removing, older_than_s=0.0),
    "gc.specs": partial(gc.specs, wanted="embed/minilm"),
    "overview.read_overview": partial(overview.read_overview, lanes=["copy"]),
    "corpora.every": corpora.every,
    "corpora.show": partial(corpora.show, name="books"),
    "corpus.corpus_named": partial(corpus.corpus_named, name="books"),
    "corpus.first_existing": partial(corpus.first_existing, names=["books"]),
    "clusters.method_of": partial(clusters.method_of, corpus_id=1),
    "report.members": lambda database: list(report.members(database, 1)),
    "report.samples": partial(report.samples, corpus_id=1, n_clusters=1, n_documents=2),
    "report.summarize": partial(report.summarize, corpus_id=1, name="books"),
    "dispatch.lanes": dispatch.lanes,
    "health.health": partial(health.health, host="h"),
    "dispatch.live_workers": dispatch.live_workers,
    "dispatch.neighbours": partial(dispatch.neighbours, pid_space="here"),
    "job_keys.find": partial(job_keys.find, key=IdempotencyKey("k", {})),
    "jobs.require": partial(jobs.require, job_id=1),
    "jobs.latest": jobs.latest,
    "dispatch.unfinished_beside": partial(dispatch.unfinished_beside, job_id=1, lanes=["copy"], limit=3),
    "migrations.current": migrations.current,
    "migrations.require_current": migrations.require_current,
    "pairs.keys": partial(pairs.keys, document_ids=[1]),
    "pairs.pairs": lambda database: list(pairs.pairs(database, 1, SIDE, SIDE)),
    "pairs.side": partial(pairs.side, corpus_id=1, job_id=1, step=None),
    "pairs.texts": partial(pairs.texts, content_ids=[1]),
    "replaced.replaced_specs": partial(replaced.replaced_specs, older_than_s=0.0),
    "replacements.answering_job": partial(replacements.answering_job, names=["books"]),
    "replacements.candidates": partial(replacements.candidates, corpus_id=1),
    "replacements.every": partial(replacements.every, corpus_id=1),
    "replacements.goes_on": partial(replacements.goes_on, job_id=1),
    "replacements.remark": partial(replacements.remark, job_id=1),
    "replacements.reread": lambda database: replacements.every(database, 1) and replacements.reread(database, CHANGE),
    "replacements.substituted": partial(replacements.substituted, corpus="books", requests=request().steps),
    "switching.requests_of": partial(switching.requests_of, found=CHANGE),
    "switching.survey": partial(switching.survey, found=CHANGE),
    "switching.survey_back": partial(switching.survey_back, found=CHANGE),
    "removal.missing": partial(removal.missing, name="books", keys=["k0"]),
    "removal.same_texts": partial(removal.same_texts, name="books", keys=["k0"]),
    "results.samples": partial(results.samples, job_id=1),
    "results.count_doubtful": partial(results.count_doubtful, job_id=1),
    "columnar.read_table": partial(columnar.read_table, job_id=1, columns=()),
    "results.columns": partial(results.columns, job_id=1),
    "flag_counts.count_flags": partial(flag_counts.count_flags, job_id=1),
    "fingerprint.marks": partial(fingerprint.marks, job_id=1),
    "results.placed_results": lambda database: list(results.placed_results(database, 1)),
    "results.failures": lambda database: list(results.failures(database, 1)),
    "results.inputs": lambda database: list(results.inputs(database, 1)),
    "results.input_columns": partial(results.input_columns, job_id=1),
    "results.rejections": lambda database: list(results.rejections(database, 1)),
    "results.has_several_steps": partial(results.has_several_steps, job_id=1),
    "results.keeps_first": partial(results.keeps_first, job_id=1),
    "results.results": lambda database: list(results.results(database, 1)),
    "marked.flagged_page": partial(marked.flagged_page, job_id=1),
    "marked.group_reasons": partial(marked.group_reasons, job_id=1),
    "queue.read_queue": partial(queue.read_queue, lanes=["copy"]),
    "searchable.list_searchable": searchable.list_searchable,
    "worker_list.list_workers": worker_list.list_workers,
    "shards.look": partial(shards.look, shard_id=1),
    "job_lists.list_jobs": partial(job_lists.list_jobs, state="open", before=9),
    "status.list_statuses": status.list_statuses,
    "pipelines.every": pipelines.every,
    "pipelines.get": partial(pipelines.get, name="nightly"),
    "pipelines.history": partial(pipelines.history, name="nightly"),
    "pipelines.scheduled": pipelines.scheduled,
    "retention.forget_jobs": partial(retention.forget_jobs, older_than_s=1e9),
    "retention.forget_rejections": partial(retention.forget_rejections, older_than_s=1e9),
    "retention.forget_runs": partial(retention.forget_runs, older_than_s=1e9),
    "retention.forget_step_texts": partial(retention.forget_step_texts, older_than_s=1e9),
    "retention.sweep": partial(retention.sweep, ages=Ages.upkeep(1e9)),
    "rounds.count": partial(rounds.count, ages=Ages.upkeep(1e9, results=1e9, shards=1e9, versions=1e9, refusals=1e9)),
    "folding.fold_shards": partial(folding.fold_shards, older_than_s=1e9),
    "aged_results.drop_unneeded": partial(aged_results.drop_unneeded, older_than_s=1e9),
    "pipelines.is_any_open": pipelines.is_any_open,
    "pipelines.let_go_all": partial(pipelines.let_go_all, owner="w1"),  # there is nothing to let go
    "status.read_status": partial(status.read_status, job_id=1),
    "selection.count_vanished": selection.count_vanished,
    "selection.select_keys": partial(selection.select_keys, name="books"),
    "tracing.trace": partial(tracing.trace, text="text 0"),
}
WRITES: dict[str, Callable[[Database], Any]] = {
    "retention.forget_refusals": partial(retention.forget_refusals, older_than_s=1e9),
    "gc.collect": gc.collect,
    "rounds.apply": partial(rounds.apply, ages=Ages.upkeep(1e9)),
    "gc.drop": gc.drop,
    "dispatch.accept": partial(dispatch.accept, worker_id="w1", spec_id=1),
    "clusters.find": partial(clusters.find, corpus_id=1, method=methods.ByText()),
    "clusters.forget": partial(clusters.forget, corpus_id=1),
    "dispatch.put_back": partial(dispatch.put_back, shard_ids=[1]),
    "dispatch.refuse": partial(dispatch.refuse, worker_id="w1", spec_id=1, reason="no"),
    "dispatch.sign_off": partial(dispatch.sign_off, worker_id="w1"),
    "dispatch.sign_on": partial(
        dispatch.sign_on, worker_id="w1", host="h", pid=1, device="cpu", lanes=["copy"], slots=1, version="0"
    ),
    "dispatch.take": partial(dispatch.take, lane=dispatch.Lane("copy", 1, 0)),
    "dispatch.withdraw": partial(dispatch.withdraw, lanes=["copy"]),
    "grace.contact": partial(grace.contact, lease_s=60.0),
    "ingest.add": partial(ingest.add, job=JOB, chunk=records(numbered(1))),
    "pruning.note_missing": partial(pruning.note_missing, job=JOB, seen=pruning.Seen(), unread=Unread()),
    "pruning.prune": partial(pruning.prune, job=JOB, seen=pruning.Seen(), limits=pruning.Limits(most_percent=100)),
    "pipelines.put": partial(pipelines.put, name="nightly", path="/x", text="", schedule=None),
    "pipelines.remove": partial(pipelines.remove, name="nightly"),
    "pipelines.fire": partial(pipelines.fire, found=DUE, due_at=1.0),
    "pipelines.begin": partial(pipelines.begin, name="nightly", owner="w1", lease_s=1.0),
    "pipelines.hand_out": pipelines.hand_out,
    "pipelines.renew": partial(pipelines.renew, run=RUN, lease_s=1.0),
    "pipelines.let_go": partial(pipelines.let_go, run=RUN, at_once=True),
    "pipelines.file_of": partial(pipelines.file_of, run=RUN),
    "pipelines.take": partial(pipelines.take, run_id=1, owner="w1", lease_s=1.0),
    "pipelines.note": partial(pipelines.note, run=RUN, state="done"),
    "ingest.end": partial(ingest.end, job=JOB),
    "jobs.cancel": partial(jobs.cancel, job_id=1),
    "jobs.finish": jobs.finish,
    "jobs.halt": partial(jobs.halt, job_id=1, reason="no"),
    "jobs.open_job": partial(jobs.open_job, request=request()),
    "jobs.pause": partial(jobs.pause, job_id=1),
    "jobs.prioritise": partial(jobs.prioritise, job_id=1, priority=1),
    "jobs.resume": partial(jobs.resume, job_id=1),
    "jobs.retry": partial(jobs.retry, job_id=1),
    "replaced.note_dropped": partial(replaced.note_dropped, spec_ids=[1], older_than_s=0.0),
    "replacements.begin": partial(
        replacements.begin, corpus_id=1, old=replacements.Candidate(1, "copy", 1, COPY), new=OTHER
    ),
    "replacements.cancel": partial(replacements.cancel, replacement_id=1),
    "replacements.note_job": partial(replacements.note_job, replacement_id=1, job_id=1),
    "switching.switch": partial(
        switching.switch, found=CHANGE, looked=switching.Survey(last=10**9), kept=(), most_lost=0.0
    ),
    "switching.undo": partial(switching.undo, last=CHANGE, kept=()),
    "recount.recount": recount.recount,
    "removal.remove_corpus": partial(removal.remove_corpus, name="books"),
    "removal.remove_documents": partial(removal.remove_documents, name="books", keys=["k0"]),
    "get_or_create.runtime_id": partial(get_or_create.runtime_id, runtime=RUNTIME),
    "shards.claim": partial(shards.claim, head=HEAD, owner="w1"),
    "shards.commit": partial(shards.commit, claim=CLAIM, outcomes=done(CLAIM), runtime_id=None),
    "shards.heartbeat": partial(shards.heartbeat, owner="w1"),
    "shards.keep": partial(shards.keep, claim=CLAIM, outcomes=done(CLAIM), runtime_id=None),
    "shards.release": partial(shards.release, claim=CLAIM, finished=done(CLAIM)),
    "maintenance.failed_attempt": partial(maintenance.failed_attempt, claim=CLAIM, reason="no"),
    "maintenance.forget_workers": maintenance.forget_workers,
    "maintenance.hold": partial(maintenance.hold, name="upkeep", owner="w1", for_s=1.0),
    "maintenance.let_go": partial(maintenance.let_go, name="upkeep", owner="w1"),
    "maintenance.lost_hints": partial(maintenance.lost_hints, lane="copy", queue_is_empty=True, grace_s=1.0),
    "maintenance.reclaim": maintenance.reclaim,
    "maintenance.release_owner": partial(maintenance.release_owner, owner="w1"),
}


def prepare(database: Database) -> None:
    """A job with a shard whose lease has lapsed (`CLAIM`), one that failed and one that is planned, a worker, a
    pipeline that is due, and a count of no shard.
    """
    WRITES["dispatch.sign_on"](database)
    pipelines.put(database, "nightly", "/x", "", {"cron": "* * * * *", "timezone": "UTC", "overlap": "queue"})
    pipelines.fire(database, pipelines.scheduled(database)[0], 1.0)
    read(database, request(), numbered(600))
    lapse(database, claim_next(database).shard_id)
    claim = claim_next(database)
    shards.commit(database, claim, failed(claim), None)
    dispatch.put_back(database, queued(database))
    read(database, request("b.jsonl", corpus="loose"), [("k", "loose")])  # its document is gone, and not its text
    jobs.cancel(database, 2)
    database.write(lambda transaction: get_or_create.spec_id(transaction, OTHER))
    loose = text("DELETE FROM document WHERE corpus_id = 2")
    database.write(lambda transaction: transaction.execute(loose))
    clusters.find(database, 1, methods.ByText())
    stray = text("INSERT INTO shard_count (job_id, lane, state, n, n_suspect) VALUES (99, 'copy', 'done', 1, 0)")
    database.write(lambda transaction: transaction.execute(stray))


def chain(error: BaseException | None) -> str:
    """Return an error and its causes as a traceback prints them."""
    said = ""
    while error is not None:
        said += f"{error!r} {error} "
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return said
