"""`docmill.connect`: jobs in a store, waiting, results, search; and a fleet in place of this machine."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import docmill
from docmill.storage.core.database import Database
from docmill.storage.leases import dispatch
from docmill.tasks.kinds import STORED_KINDS
from docmill.worker.process import device_start
from docmill.worker.queue import dispatcher
from docmill.worker.settings import STORE
from tests.storage.builders import dispatch_shards, sign_on
from tests.worker.harness import Docmill, forked_device

NULL: dict[str, Any] = {"model": "null", "progress": False}


@pytest.fixture(scope="module")
def mill(store: Path) -> Iterator[docmill.Mill]:
    """An embedded store without a worker."""
    with docmill.connect(store=store, device="cpu") as mill:
        yield mill


@pytest.fixture(scope="module")
def ended_job(mill: docmill.Mill) -> docmill.Job:
    """A job that has ended, with a document that was skipped and a record that was rejected."""
    mill.run(["one", "", "three", None], "embed", corpus="numbers", **NULL)
    return mill.job(mill.jobs()[0].id)


def test_an_enqueued_job_waits_for_a_worker_and_says_so(mill: docmill.Mill) -> None:
    job = mill.enqueue(["to do"], "embed", priority=3, **NULL)
    status = job.status()
    assert (status.state, status.pending, status.priority, status.no_worker) == ("running", 1, 3, True)
    with pytest.raises(docmill.TimedOut, match="1 text to do; no live worker serves lane embed;") as raised:
        job.wait(timeout=0, progress=False)
    assert isinstance(raised.value, TimeoutError)
    with pytest.raises(docmill.Error, match=r"wait\(\) waits for its end"):
        job.results()
    assert list(job.results(partial=True)) == []
    with pytest.raises(docmill.Error, match="unflagged is empty: name a flag"):
        job.results(partial=True, flagged=[])
    assert mill.enqueue(["to do"], "embed", priority=3, **NULL).id == job.id
    assert job.cancel() is True
    assert job.cancel() is False
    assert job.wait(progress=False).state == "cancelled"


@pytest.mark.timeout(300)
def test_a_run_offers_shards_of_its_job_again_after_a_queue_was_lost_although_others_work(
    mill: docmill.Mill, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "GRACE_S", 3_600.0)
    job = mill.enqueue(["in a lost queue"], "embed", corpus="lost", **NULL)
    with closing(Database(f"sqlite:///{store / STORE}", kinds=STORED_KINDS)) as database:
        assert dispatch_shards(database)
        sign_on(database, "another", "embed")
        mill.run(["in a lost queue"], "embed", corpus="lost", **NULL)
        dispatch.sign_off(database, "another")
    assert job.status().state == "done"


def test_a_task_that_is_cancelled_waits_no_longer_and_leaves_the_job_as_it_is(mill: docmill.Mill) -> None:
    job = mill.enqueue(["never done"], "embed", **NULL)

    async def cancelled() -> None:
        task = asyncio.create_task(job.wait_async())
        await asyncio.sleep(0)  # the task begins
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())  # it ends when its threads have
    assert job.status().state == "running"


def test_waiting_leaves_the_event_loop_free(mill: docmill.Mill) -> None:
    job = mill.enqueue(["never done"], "embed", **NULL)

    async def cancels() -> None:
        job.cancel()

    async def waited() -> docmill.Status:
        status, _ = await asyncio.gather(job.wait_async(), cancels())
        return status

    assert asyncio.run(waited()).state == "cancelled"


def test_the_results_of_a_job_come_lazily_and_as_a_table(ended_job: docmill.Job) -> None:
    rows = ended_job.results(with_input=True)
    assert next(rows)["input"] == "one"
    assert next(rows)["id"] == "2"
    table = ended_job.to_arrow()
    assert table.column_names[:3] == ["id", "task", "vector"]
    assert table["id"].to_pylist() == ["0", "2"]
    assert ended_job.to_arrow(with_input=True)["input"].to_pylist() == ["one", "three"]
    assert pa.types.is_fixed_size_list(table.schema.field("vector").type)
    frame = ended_job.to_pandas()
    assert list(frame["id"]) == ["0", "2"]
    assert len(frame["vector"][0]) == table.schema.field("vector").type.list_size
    assert [failure["status"] for failure in ended_job.failures()] == ["skipped", "rejected"]
    assert ended_job.retry() == 0


def test_results_that_were_removed_are_refused(mill: docmill.Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    job = mill.enqueue(["never done"], "embed", **NULL)
    status = job.status()
    ended = replace(status, state="done", steps=(replace(status.steps[0], done=1),))
    monkeypatch.setattr(job, "status", lambda: ended)
    for act in (job.results, job.to_arrow):
        with pytest.raises(docmill.Error, match="were removed since"):
            act()


def test_a_limit_of_a_job_s_cost_is_a_finite_number_above_0(mill: docmill.Mill) -> None:
    job = mill.enqueue(["never done"], "embed", **NULL)
    for limit, message in ((0.0, "must be above 0."), (math.nan, "finite"), (math.inf, "finite")):
        with pytest.raises(docmill.Error, match=f"--max-cost .*{message}"):
            job.resume(max_cost=limit)


def test_a_closed_mill_answers_nothing_and_neither_do_its_jobs(tmp_path: Path) -> None:
    with docmill.connect(store=tmp_path, device="cpu") as mill:
        job = mill.enqueue(["a text"], "embed", **NULL)
    for act in (mill.jobs, job.status, job.cancel):
        with pytest.raises(docmill.Error, match="is closed; open another"):
            act()


def test_a_job_and_its_results_outlive_the_name_of_their_mill(store: Path, ended_job: docmill.Job) -> None:
    job = docmill.connect(store=store).job(ended_job.id)
    rows = docmill.connect(store=store).job(ended_job.id).results()
    assert (job.status().state, len([*rows])) == ("done", 2)
    job.database.close()


def test_runs_in_a_with_block_share_a_device_process_which_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []

    def start() -> Any:
        started.append(forked_device())
        return started[-1]

    monkeypatch.setattr(device_start, "start_device", start)
    with docmill.connect(store=tmp_path, device="cpu") as mill:
        for task in ("embed", "summarize", "embed"):
            table = mill.run([f"A text to {task}, number {len(mill.jobs())}."], task, **NULL)
            assert table["status"].to_pylist() == ["done"]
            assert len(started) == 1
            assert started[0].poll() is None
        with pytest.raises(docmill.Error):
            mill.run(["A text."], "classify", model="no-such-model", progress=False)
        mill.run(["Another text."], "embed", **NULL)
        ours, child = os.getpid(), os.fork()
        if child == 0:  # which leaves the processes to its parent
            mill.close()
            os._exit(0)
        assert (os.getpid(), os.waitpid(child, 0)[1]) == (ours, 0)
        assert started[-1].poll() is None
        assert mill.run(["The last text."], "embed", **NULL)["status"].to_pylist() == ["done"]
    assert all(process.poll() is not None for process in started)


def test_a_run_whose_coroutine_is_cancelled_is_interrupted_and_the_same_call_continues_it(tmp_path: Path) -> None:
    reading_began = threading.Event()

    def documents() -> Iterator[str]:
        yield "A text."
        reading_began.set()
        yield from (f"Text {number}." for number in range(2_000))

    async def cancelled(mill: docmill.Mill) -> None:
        running = asyncio.create_task(mill.run_async(documents(), "embed", corpus="texts", model="null"))
        await asyncio.to_thread(reading_began.wait)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    with docmill.connect(store=tmp_path, device="cpu") as mill:
        asyncio.run(cancelled(mill))
        [status] = mill.jobs()
        assert not status.ended
        table = asyncio.run(mill.run_async(documents(), "embed", corpus="texts", model="null", with_input=True))
        assert (table.num_rows, table["input"][0].as_py()) == (2_001, "A text.")
        assert [job.id for job in mill.jobs()] == [status.id]


def test_a_search_finds_documents_by_the_name_of_their_corpus(mill: docmill.Mill, ended_job: docmill.Job) -> None:
    hits = mill.search("numbers", "three", top=1, passages=False)
    assert [(hit.id, hit.text, hit.meta) for hit in hits] == [("2", "three", {})]
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(docmill.Error, match="the text of a search is empty"):
        mill.search("numbers", " ")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda mill: mill.jobs(-1), "limit must be a whole number between 1 and 2,147,483,647, not -1"),
        (lambda mill: mill.jobs(math.nan), "limit must be a whole number .*, not nan"),
        (lambda mill: mill.job("1"), "job_id must be a whole number .*, not '1'"),
        (lambda mill: mill.pipelines.history("notes", 0), "limit must be a whole number .*, not 0"),
        (
            lambda mill: mill.search("numbers", "three", top=1.5),
            "top must be .* between 1 and 1,000, not 1.5",
        ),
        (lambda mill: mill.search("numbers", "three", job=True), "job must be a whole number .*, not true"),
        (lambda mill: mill.search("numbers", None), "text must be a text, not None"),
        (lambda mill: mill.search("numbers", "three", prompt=[]), "prompt must be a text, not a list"),
        (
            lambda mill: mill.search("numbers", "three", model_prompt="\udcff"),
            "an option cannot be stored: str is not",
        ),
        (lambda mill: mill.job(1).results(unflagged=-1), "unflagged must be a text, not -1"),
        (lambda mill: mill.run(["a"], None, **NULL), "task must be a text, not None"),
        (lambda mill: mill.job(1).wait("1"), "timeout must be a number of seconds, not '1'"),
    ],
)
def test_an_argument_of_a_wrong_type_or_size_is_refused_in_words(
    mill: docmill.Mill, ended_job: docmill.Job, call: Callable[[Any], object], says: str
) -> None:
    with pytest.raises(docmill.Error, match=says):
        call(mill)


def test_an_endpoint_is_for_this_machine_since_workers_have_their_own(mill: docmill.Mill) -> None:
    with pytest.raises(docmill.Error, match="docmill worker --endpoint URL"):
        mill.enqueue(["a text"], "embed", endpoint="http://localhost/v1", **NULL)  # type: ignore[call-arg]
    with pytest.raises(docmill.Error, match="--endpoint: it is no URL"):
        mill.run(["a text"], "embed", endpoint="nowhere", **NULL)


def test_a_pipeline_is_run_stored_and_listed(mill: docmill.Mill, tmp_path: Path) -> None:
    (tmp_path / "notes.jsonl").write_text('{"id": "n", "text": "A note."}\n')
    file = tmp_path / "notes.toml"
    step = '[[step]]\nname = "vectors"\ntask = "embed"\nmodel = "null"\n'
    file.write_text(f'name = "notes"\n[corpus]\nsource = "{tmp_path}/notes.jsonl"\n{step}[output]\nview = false\n')
    assert mill.pipelines.add(file) == "notes"
    job = mill.pipelines.run(file, progress=False)
    assert [result["id"] for result in job.results()] == ["n"]
    [listed] = mill.pipelines.list()
    [run] = mill.pipelines.history("notes")
    assert (listed["name"], listed["last_run"], run["job"], run["state"]) == ("notes", run, job.id, "done")
    with pytest.raises(docmill.Error, match="no pipeline"):
        mill.pipelines.history("other")
    file.write_text(file.read_text().replace("embed", "embd"))
    with pytest.raises(docmill.Error, match=r"notes\.toml: step\[1\]\.task must be "):
        mill.pipelines.run(file)


def test_a_database_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(docmill.Unreachable, match="there is no file"):
        docmill.connect(f"sqlite:///{tmp_path / 'nothing.db'}")
    with pytest.raises(docmill.Error, match="leave it out with the URLs"):
        docmill.connect("sqlite:///x.db", store=tmp_path)
    with pytest.raises(docmill.Error, match="store is empty"):
        docmill.connect(store="")


def test_the_same_call_on_a_fleet_is_computed_by_its_workers(fleet: Docmill, database: Database) -> None:
    urls = [fleet.environment[name] for name in ("DOCMILL_DATABASE_URL", "DOCMILL_REDIS_URL")]
    fleet.loads_models = False
    with docmill.connect(*urls) as mill, fleet.worker("--device", "cpu"):
        table = mill.run(["one", "", "three", None], "embed", **NULL)
        assert table["status"].to_pylist() == ["done", "skipped", "done", "rejected"]
        assert table["id"].to_pylist() == ["0", "1", "2", "3"]
        [status] = mill.jobs()
    with docmill.connect(*urls) as mill:  # and needs no worker for what is computed
        assert mill.run(["one", "three"], "embed", **NULL)["status"].to_pylist() == ["done", "done"]
    assert status.done == 2


def test_the_same_idempotency_key_is_the_same_job_of_the_same_documents(mill: docmill.Mill) -> None:
    options: dict[str, Any] = {**NULL, "idempotency_key": "flow 7"}
    job = mill.enqueue(["a text"], "embed", **options)
    job.cancel()
    assert mill.enqueue(["a text"], "embed", **options).id == job.id
    assert mill.enqueue(iter(["a text"]), "embed", **NULL | {"idempotency_key": "flow 8"}).id != job.id
    with pytest.raises(docmill.Error, match=r"the source python \w+ then, python \w+ now"):
        mill.enqueue(["another"], "embed", **options)
    with pytest.raises(docmill.Error, match="no option idempotency_key"):
        mill.run(["a text"], "embed", **options)
