"""The users of docs/security.md have the rights that docmill needs, and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import psycopg
import pytest
from celery import Celery
from celery.result import AsyncResult
from sqlalchemy import select, update

from docmill.features.batch_server import keys, stored_batches, stored_files
from docmill.features.near_duplicates import clusters
from docmill.features.near_duplicates.methods import ByText
from docmill.features.near_duplicates.tables import Duplicate, promote
from docmill.features.reviewing import judgements
from docmill.features.reviewing.judgements import Judged, Verdict
from docmill.features.reviewing.population import read_population, read_step
from docmill.storage import migrations
from docmill.storage.core import lookups, privileges
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Ingest, Job, PipelineRun, Shard
from docmill.storage.core.specs import Outcome, Spec
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion import retention
from docmill.storage.errors import RightMissing
from docmill.storage.ingest import ingest
from docmill.storage.leases import dispatch, maintenance, shards
from docmill.storage.leases.shards import Claim
from docmill.storage.pipelines import pipelines
from docmill.storage.readers import Rejection
from docmill.storage.results.fleet import read_fleet
from docmill.storage.results.job_counts import runtimes
from docmill.storage.results.results import failures, results
from docmill.storage.results.status import list_statuses, read_status
from docmill.storage.steps import fitted_risks, jobs, replacements
from docmill.storage.steps.budgets import Account
from docmill.storage.steps.conditions import Doubt
from docmill.storage.steps.jobs import IdempotencyKey, JobRequest
from docmill.storage.steps.risk import FittedRisk, RiskModel
from docmill.storage.steps.steps import EscalationRequest, StepRequest
from docmill.worker.pipelines.running import advance
from docmill.worker.queue.broker import Broker
from docmill.worker.queue.messages import ENQUEUE_TASK, queue
from docmill.worker.settings import ENQUEUE_LANE, load_settings
from tests.faults import security
from tests.faults.servers import PostgresCluster
from tests.kinds import KINDS
from tests.storage import builders
from tests.storage.builders import claim_next, done, failed, numbered, read, records, request, set_shard
from tests.worker.harness import Docmill, until

OWNER, WORKER, ADMIN, TAKER = "docmill_owner", "docmill_worker", "docmill_admin", "docmill_orders"
ROLES = (TAKER, WORKER, ADMIN, OWNER)
GRANTS = """
SELECT privilege_type || ' on ' || table_name FROM information_schema.role_table_grants WHERE grantee = %(role)s
UNION SELECT privilege_type || ' (' || column_name || ') on ' || table_name
FROM information_schema.role_column_grants c
WHERE grantee = %(role)s AND NOT EXISTS (SELECT FROM information_schema.role_table_grants t
    WHERE (t.grantee, t.table_name, t.privilege_type) = (c.grantee, c.table_name, c.privilege_type))
UNION SELECT 'USAGE on ' || object_name FROM information_schema.role_usage_grants
WHERE grantee = %(role)s AND object_type = 'SEQUENCE' ORDER BY 1
"""
numbers = count(100)  # no number of a document: texts that share one would be near duplicates


class Store:
    """A database that is set up as the page says."""

    def __init__(self, cluster: PostgresCluster) -> None:
        self._admin_url = cluster.admin_url
        self._url = cluster.admin_url.removesuffix("postgres") + "docmill"
        self.as_superuser(*security.sql(0))
        database = self.open(OWNER)
        migrations.upgrade(database)
        database.close()
        self.as_owner(*security.sql(1))

    def url(self, role: str) -> str:
        return security.as_user(self._url, role).render_as_string(hide_password=False)

    def open(self, role: str) -> Database:
        return Database(self.url(role), kinds=KINDS)

    def as_owner(self, *statements: str) -> None:
        self.run(self.url(OWNER), *statements)

    def as_superuser(self, *statements: str) -> None:
        self.run(self._admin_url, *statements)

    def run(self, url: str, *statements: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def granted(self, role: str) -> list[str]:
        with psycopg.connect(self.url(OWNER)) as connection:
            return [right for (right,) in connection.execute(GRANTS, {"role": role})]

    def drop(self) -> None:
        self.as_superuser("DROP DATABASE docmill WITH (FORCE)", *(f"DROP ROLE IF EXISTS {r}" for r in ROLES))


@pytest.fixture
def store(own_postgres: PostgresCluster) -> Iterator[Store]:
    store = Store(own_postgres)
    yield store
    store.drop()


def docmill(folder: Path, url: str, redis_url: str) -> Docmill:
    settings = {"DOCMILL_DATABASE_URL": url, "DOCMILL_REDIS_URL": redis_url, "DOCMILL_UPKEEP_S": "0.5"}
    return Docmill(folder, settings)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": "1", "text": "A text."}\n{"id": "2", "text": " "}\nnot JSON\n')
    return path


def test_the_pages_rights_let_one_user_enqueue_a_job_and_another_compute_it(
    store: Store, tmp_path: Path, redis_url: str, corpus: Path
) -> None:
    admin, worker = (docmill(tmp_path, store.url(role), redis_url) for role in (ADMIN, WORKER))
    job = admin.enqueue("translate", corpus, "--model", "null")
    with worker.worker("--device", "cpu"):
        admin("status", job, "--wait", code=4)
    assert len(admin.results(job)) == 1
    assert {line.split("\t")[1] for line in admin("failures", job).stdout.splitlines()[1:]} == {"skipped", "rejected"}
    for command in (["pause", job], ["resume", job], ["priority", job, 3], ["retry", job], ["cancel", job], ["jobs"]):
        admin(*command)
    admin("db", "upgrade")  # where there is nothing to do it takes no right


def send(redis_url: str, corpus: Path) -> AsyncResult:
    """Send an order, and return its result."""
    app = Celery(broker=redis_url, backend=redis_url, set_as_current=False)
    arguments = {"source": str(corpus), "task": "translate", "model": "null"}
    return app.AsyncResult(app.send_task(ENQUEUE_TASK, queue=queue(ENQUEUE_LANE), kwargs=arguments).id)


def take_orders(store: Store, tmp_path: Path, redis_url: str) -> Docmill:
    worker = docmill(tmp_path, store.url(WORKER), redis_url)
    worker.environment |= {"DOCMILL_LANES": "translate,enqueue", "DOCMILL_ORDER_ROOTS": str(tmp_path)}
    return worker


def test_a_worker_takes_no_order_without_the_rights_for_it_and_does_not_start_without_its_own(
    store: Store, tmp_path: Path, redis_url: str, corpus: Path
) -> None:
    admin, worker = docmill(tmp_path, store.url(ADMIN), redis_url), take_orders(store, tmp_path, redis_url)
    order = send(redis_url, corpus)
    with worker.worker("--device", "cpu"):
        job = admin.enqueue("translate", corpus, "--model", "null")
        admin("status", job, "--wait", code=4)
        assert "takes no orders: the database's user lacks SELECT on replacement" in worker.log("worker")
        [finding] = [each for each in admin.json("doctor", code=1) if each["what"] == "orders"]
        assert finding["detail"] == "1 in the queue; no live worker takes orders"
        assert order.state == "PENDING"
    stderr = worker("worker", "--device", "cpu", "--lanes", "enqueue", code=3).stderr
    assert "may take no orders, and has no other lane" in stderr
    store.as_owner(
        f"REVOKE INSERT ON outcome FROM {WORKER}", f"REVOKE USAGE ON SEQUENCE runtime_id_seq FROM {WORKER}"
    )
    stderr = worker("worker", "--device", "cpu", code=3).stderr
    assert "lacks INSERT on outcome, USAGE on runtime_id_seq" in stderr, (
        "a worker without its own rights does not start"
    )


def test_a_worker_with_the_rights_for_orders_carries_them_out(
    store: Store, tmp_path: Path, redis_url: str, corpus: Path
) -> None:
    admin, worker = docmill(tmp_path, store.url(ADMIN), redis_url), take_orders(store, tmp_path, redis_url)
    for name, several in privileges.order_rights().items():
        kind = "SEQUENCE " if several == ("USAGE",) else ""
        store.as_owner(f"GRANT {', '.join(several)} ON {kind}{name} TO {WORKER}")
    with worker.worker("--device", "cpu"):
        assert send(redis_url, corpus).get(60) == 1
        until(lambda: [job["done"] for job in admin.json("jobs")] == [1], "the order is carried out")
        store.as_owner(f"REVOKE INSERT ON ingest FROM {WORKER}")
        late = send(redis_url, corpus)
        until(lambda: late.state == "RETRY", "it waits for a worker that may")
        assert "permission denied" in str(late.info)
    store.as_superuser(*security.sql(2))
    worker.environment["DOCMILL_DATABASE_URL"] = store.url(TAKER)
    with worker.worker("--device", "cpu"):
        assert late.get(60) == 2, "the page's user for orders carries it out"


SCHEMA_CHANGES = ["CREATE TABLE mine (id int)", "ALTER TABLE shard ADD mine int"]
FORBIDDEN = {
    ADMIN: SCHEMA_CHANGES,
    WORKER: [
        *SCHEMA_CHANGES,
        "SELECT text FROM pipeline",
        "SELECT path FROM pipeline",
        "SELECT text FROM pipeline_run_file",
        "UPDATE pipeline SET text = 'source = \"/etc/passwd\"'",
        "UPDATE pipeline SET path = '/etc', schedule = NULL",
        "UPDATE job SET corpus_id = 1",
        "UPDATE job SET priority = 9, max_failures = 100",
        "UPDATE step SET spec_id = 1",
        "UPDATE step SET name = 'another'",
    ],
}


def test_only_the_owner_changes_the_schema_and_a_worker_has_the_rights_that_the_code_asks_for_and_no_others(
    store: Store, tmp_path: Path, redis_url: str
) -> None:
    required = [f"{right} on {name}" for name, several in privileges.worker_rights().items() for right in several]
    assert store.granted(WORKER) == sorted(required)
    for role, statements in FORBIDDEN.items():
        for statement in statements:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                store.run(store.url(role), statement)
    store.as_owner("DROP SCHEMA public CASCADE")
    refused = docmill(tmp_path, store.url(WORKER), redis_url)("db", "upgrade", code=3)
    assert "lacks a right: no schema has been selected to create in; docs/security.md" in refused.stderr


def test_a_run_that_a_worker_has_no_right_to_carry_out_fails_with_that_reason(
    store: Store, tmp_path: Path, redis_url: str
) -> None:
    admin, worker = store.open(ADMIN), store.open(WORKER)
    pipelines.put(admin, "p", "/x.toml", "", {"cron": "* * * * *", "timezone": "UTC", "overlap": "queue"})
    run_id = pipelines.fire(worker, pipelines.scheduled(worker)[0], 1.0)
    assert run_id is not None
    broker = Broker(redis_url)
    advance(load_settings(home=tmp_path), worker, broker, run_id, owner="me")
    broker.close()
    [run] = pipelines.history(admin, "p")
    assert run.state == "failed"
    assert run.reason is not None
    assert "permission denied for table pipeline" in run.reason
    admin.close()
    worker.close()


@pytest.mark.parametrize("role", [WORKER, ADMIN])
@pytest.mark.parametrize("takes_each_away", [False, pytest.param(True, marks=pytest.mark.long)])
def test_the_rights_of_the_page_suffice_and_each_is_needed(store: Store, role: str, takes_each_away: bool) -> None:
    owner, database = store.open(OWNER), store.open(role)
    exercise: Callable[[Database, Database], None] = {WORKER: work, ADMIN: steer}[role]
    exercise(owner, database)
    exercise(owner, database)
    for granted in store.granted(role) if takes_each_away else ():
        right, _, name = granted.partition(" on ")
        privilege = f"{right} ON {'SEQUENCE ' if right == 'USAGE' else ''}{name}"
        store.as_owner(f"REVOKE {privilege} FROM {role}")
        with pytest.raises(RightMissing, match=rf"lacks a right: permission denied for (table|sequence) {name};"):
            exercise(owner, database)
        store.as_owner(f"GRANT {privilege} TO {role}")
    owner.close()
    database.close()


def spec() -> Spec:
    """Return a new spec."""
    return Spec("translate", "marian", f"sha256:{next(numbers)}")


def chained_request(first: Spec, *, corpus: str) -> JobRequest:
    """Return a request with a limit of cost, whose later steps read the output of the first, one with metadata."""
    second = StepRequest("second", Spec("summarize", "synopsis", "sha256:0"), "first")
    prompted = StepRequest(
        "told", Spec("generate", "writer", "sha256:0", params={"prompt": "{meta.n}: {text}"}), "first"
    )
    rescuing = EscalationRequest(Spec("translate", "large", "sha256:0"), Doubt.parse(["failed"]))
    steps = (StepRequest("first", first, escalation=rescuing, leaves_out="near-duplicates"), second, prompted)
    account = Account(max_cost=1e9, prices={"marian": (1.0, 1.0)})
    return JobRequest(corpus=corpus, source="a.jsonl", steps=steps, account=account)


def puts_out(n: int) -> Callable[[Claim], list[Outcome]]:
    """Return a function that fails the first shard. The others put out a new text, then texts that are known."""
    claims = count()

    def outcomes(claim: Claim) -> list[Outcome]:
        if next(claims) == 0:
            return failed(claim)
        texts = [f"put out in round {n} by {claim.shard_id}", *["put out in every round"] * len(claim.texts)]
        return [replace(outcome, text=text) for outcome, text in zip(done(claim), texts, strict=False)]

    return outcomes


def steer(owner: Database, admin: Database) -> None:
    """Do all that an admin's commands do to the store."""
    migrations.require_current(admin)
    n = next(numbers)
    computed = spec()
    reviewed = read(owner, request("a.jsonl", corpus=f"computed {n}", spec=computed), numbered(3))
    builders.work(owner)
    review(admin, reviewed.id)
    serve_batches(admin)
    assert runtimes(admin, reviewed.id) == []
    with admin.read() as transaction:
        lookups.vector_length(transaction, 1)
    owner.write(lambda transaction: transaction.execute(update(Job).values(state="done")))
    read(admin, chained_request(computed, corpus=f"computed {n}"), numbered(3))
    prompted = replace(spec(), params={"prompt": "{meta.n}: {text}"})
    read(admin, request("a.jsonl", corpus=f"computed {n}", spec=prompted), numbered(3))
    for text in ("", "again"):
        pipelines.put(admin, f"p{n}", "/x.toml", text, None)
    by_hand = pipelines.begin(admin, f"p{n}", "me", 60.0)
    assert pipelines.file_of(admin, by_hand) == ("/x.toml", "again")
    pipelines.note(admin, by_hand, "done")
    pipelines.remove(admin, f"p{n}")
    keyed = request(f"{n}.jsonl", corpus=f"corpus {n}", spec=spec(), key=IdempotencyKey(f"run {n}", {}))
    assert jobs.open_job(admin, keyed).id == jobs.open_job(admin, keyed).id
    job_request = request(f"{n}.jsonl", corpus=f"corpus {n}", spec=spec())
    twice = [("a", f"first {n}"), ("a", f"second {n}")]
    read(admin, job_request, twice, chunk=1, stop_after=2)
    job = read(admin, job_request, twice, chunk=1, stop_after=1)  # now the first version contends with the second
    ingest.end(admin, job, ingest.add(admin, job, records(numbered(3)), [Rejection("line 9", "no JSON")]))
    assert replacements.substitute_specs(admin, job_request.corpus, job_request.steps) == job_request.steps
    assert clusters.find(admin, job.corpus_id, ByText(0.3, size=1)).repeats == 2
    changing = request(f"{n} changed.jsonl", corpus=f"corpus {n}", spec=spec())
    read(admin, changing, [("k0", f"the first of the cluster, changed in round {n}")])
    admin.write(lambda transaction: promote(transaction, clusters_of_corpus(transaction, job.corpus_id)))
    assert clusters.forget(admin, job.corpus_id) == 3
    assert read_fleet(admin, ["translate"]).lanes
    [lane] = [lane for lane in dispatch.lanes(admin) if lane.name == "translate"]
    dispatch.put_back(admin, builders.take(admin, lane))
    assert read_status(admin, job.id).rejected == 1
    assert list_statuses(admin, 3)
    assert list(results(admin, job.id)) == []
    assert len(list(failures(admin, job.id))) == 1
    for act in (jobs.pause, jobs.resume, jobs.retry, jobs.cancel):
        act(admin, job.id)
    forget(owner, admin, n, chained_request(computed, corpus=f"computed {n}"))


def clusters_of_corpus(transaction: Transaction, corpus_id: int) -> set[tuple[int, int]]:
    of_corpus = select(Duplicate.first_id).where(Duplicate.corpus_id == corpus_id)
    return {(corpus_id, first_id) for first_id in transaction.scalars(of_corpus)}


def forget(owner: Database, admin: Database, n: int, job_request: JobRequest) -> None:
    """Forget an old run with its job, rejected records and step texts."""
    pipelines.put(admin, f"old{n}", "/x.toml", "", None)
    for _ in range(2):  # the last one stays
        job = read(admin, job_request, numbered(3))
        ingest.add(admin, job, records([]), [Rejection("line 9", "no JSON")])
        jobs.cancel(admin, job.id)
        pipelines.note(admin, pipelines.begin(admin, f"old{n}", "me", 60.0), "done", job_id=job.id)
    end_long_ago(owner)
    assert retention.forget_runs(admin, 60.0).rows > 0


def end_long_ago(owner: Database) -> None:
    for table in (Ingest, Job, PipelineRun):
        query = update(table).where(table.finished_at.is_not(None)).values(finished_at=1.0)
        owner.write(lambda transaction, query=query: transaction.execute(query))  # type: ignore[misc]


def work(owner: Database, worker: Database) -> None:
    """Do all that a worker does to the store, with jobs of others."""
    n = next(numbers)
    owner.write(lambda transaction: transaction.execute(update(Shard).values(state="done")))  # what a refusal left
    read(owner, chained_request(spec(), corpus=f"corpus {n}"), numbered(4, first=4 * n))
    pipelines.put(owner, f"p{n}", "/x.toml", "", {"cron": "* * * * *", "timezone": "UTC", "overlap": "queue"})
    migrations.require_current(worker)
    for due_at in (1.0, 2.0):
        pipeline = next(pipeline for pipeline in pipelines.scheduled(worker) if pipeline.name == f"p{n}")
        run_id = pipelines.fire(worker, pipeline, due_at)
        assert run_id in pipelines.hand_out(worker)
        assert pipelines.is_any_open(worker)
        pipelines.let_go_all(worker, "me")
        pipelines.note(worker, pipelines.history(owner, f"p{n}")[0], "done")
    maintenance.hold(worker, "upkeep", "me", 60)
    dispatch.sign_on(worker, "me", host="here", pid=1, device="cpu", lanes=["translate"], slots=1, version="0")
    dispatch.refuse(worker, "me", 1, "no such model")
    dispatch.accept(worker, "me", 1)
    runtime = {"device": str(n), "precision": "-", "backend": "-", "versions": {}}
    claim = claim_next(worker, "me")
    shards.heartbeat(worker, "me")
    assert worker.write(lambda transaction: lookups.make_vector_length(transaction, claim.spec_id, n)) == n
    shards.release(worker, claim, done(claim)[:1], runtime)
    set_shard(owner, claim_next(worker, "me").shard_id, suspect=1)
    maintenance.reclaim(worker, "me")  # splits it
    assert builders.work(worker, puts_out(n), owner="me") > 1
    fail(owner, worker, n)
    maintenance.lost_hints(worker, "translate", queue_is_empty=True, grace_s=0)
    maintenance.forget_workers(worker)
    jobs.finish(worker)
    end_long_ago(owner)
    assert retention.forget_step_texts(worker, 60.0).rows > 0
    assert retention.forget_runs(worker, 60.0).rows > 0
    dispatch.sign_off(worker, "me")
    maintenance.let_go(worker, "upkeep", "me")


def fail(owner: Database, worker: Database, n: int) -> None:
    """Stop a job by too many failures."""
    job_request = replace(request(f"failing {n}.jsonl", corpus=f"failing {n}", spec=spec()), max_failures=0.0)
    job = read(owner, job_request, numbered(1, first=10**6 * n))
    claim = claim_next(worker, "me")
    runtime = {"device": f"{n}", "precision": "-", "backend": "-", "versions": {}}
    shards.commit(worker, claim, failed(claim), runtime)
    jobs.finish(worker)
    assert read_status(owner, job.id).state == "stopped"


def review(admin: Database, job: int) -> None:
    """Judge the outputs of a job, and judge them again."""
    step = read_step(admin, job)
    judged = [
        Judged(content, Verdict.GOOD, "ann", 0) for content in read_population(admin, step, 0).contents.tolist()
    ]
    for _ in range(2):
        assert judgements.store(admin, step.step.spec_id, judged) == 3
    assert len(judgements.read(admin, step.step.spec_id)) == 3
    assert len(judgements.read_judged_results(admin, step.step.spec_id)) == 3
    fitted_risks.store(admin, step.step.spec_id, FittedRisk(0, RiskModel(0.0, ()), 1, 1, {}))


def serve_batches(admin: Database) -> None:
    """Do all that the Batch API does to its own tables."""
    name = f"key {next(numbers)}"
    key = keys.find_key(admin, keys.add_key(admin, name, weight=1))
    assert key is not None
    writer = stored_files.FileWriter(admin, name, "a.jsonl", stored_files.INPUT, 60.0)
    writer.write(b"line\n")
    file = stored_files.add_file(admin, key, writer, None)
    arguments = {"endpoint": "/v1/embeddings", "input_file_id": file.id, "completion_window": "24h", "n_lines": 1}
    batch = stored_batches.create_batch(admin, key, arguments, 60.0, None)
    held = stored_batches.hold(admin, batch.id, "me", 60.0)
    assert held is not None
    stored_batches.advance(admin, held, "me", stored_batches.FAILED, {})
    stored_batches.give_back(admin, batch.id, "me")
    assert b"".join(stored_files.read_blocks(admin, file.id)) == b"line\n"
    assert stored_batches.count_requests(admin, batch) == (0, 0)
    assert stored_batches.find_jobs(admin, batch.id, 1) == []
    stored_batches.delete_file(admin, key, file.id)
    keys.revoke_key(admin, name)
