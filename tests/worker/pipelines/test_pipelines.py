"""`docmill pipeline`, and runs that a worker takes further."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from docmill.storage.core.database import Database
from docmill.storage.pipelines import pipelines
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs
from docmill.worker.concurrency import HeldLease
from docmill.worker.jobs import Listener, local_run
from docmill.worker.jobs.pipelines import run_file
from docmill.worker.pipelines.file import parse
from docmill.worker.pipelines.running import advance, requests_of
from docmill.worker.queue.broker import Broker
from docmill.worker.settings import Settings
from tests.storage.builders import TRANSLATE, echo, failed, finish, migrate, numbered, read, request
from tests.worker.conftest import Call
from tests.worker.harness import Docmill

# Its steps put out what they read.
NULL = """
name = "nightly"
[corpus]
source = "corpus.jsonl"
[[step]]
name = "english"
task = "translate"
model = "null"
[[step]]
name = "line"
task = "summarize"
model = "null"
[output]
file = "out.jsonl"
"""
YEARLY = """
[schedule]
cron = "0 0 1 1 *"
"""


def keep(database: Database, folder: Path, text: str) -> None:
    """Store a pipeline whose file would be in this folder."""
    schedule = {"cron": "0 * * * *", "timezone": "UTC", "overlap": "skip"}
    pipelines.put(database, "nightly", str(folder / "nightly.toml"), text, schedule)


def due_run(database: Database, due_at: float = 1.0) -> Any:
    """Return a due run of the pipeline."""
    run_id = pipelines.fire(database, pipelines.scheduled(database)[0], due_at)
    return next(run for run in pipelines.history(database, "nightly") if run.id == run_id)


def run_of_job(database: Database, job_id: int) -> Any:
    """Return a run of the pipeline whose job this is."""
    run = due_run(database)
    pipelines.note(database, run, "running", job_id=job_id)
    return run


@pytest.fixture
def advance_run(settings: Settings, database: Database, broker: Broker) -> Callable[..., Any]:
    """A function that advances a run as a worker does, and returns the run as it is then."""

    def advance_and_read(run: Any, **changes: Any) -> Any:
        advance(settings.model_copy(update=changes), database, broker, run.id, owner="w1")
        [run] = pipelines.history(database, "nightly")
        return run

    return advance_and_read


def test_a_scheduled_run_that_cannot_begin_is_in_the_history_with_its_reason(
    database: Database, tmp_path: Path, advance_run: Callable[..., Any]
) -> None:
    keep(database, tmp_path, NULL)
    run = advance_run(due_run(database))
    assert run.state == "failed"
    assert "corpus.jsonl" in (run.reason or "")


def test_errors_of_a_file_are_reported_with_their_places_and_nothing_is_stored(embedded: Docmill) -> None:
    (embedded.folder / "bad.toml").write_text(NULL.replace('task = "summarize"', 'task = "sumarize"\nbeam = 2'))
    stderr = embedded("pipeline", "check", "bad.toml", code=2).stderr
    assert [line.partition(" ")[0] for line in stderr.splitlines()] == ["docmill:", "docmill:"]
    assert "docmill: bad.toml: step[2].task must be " in stderr
    assert "docmill: bad.toml: step[2].beam: there is no beam in [[step]]; did you mean beams?" in stderr
    (embedded.folder / "lost.toml").write_text(NULL)
    assert "corpus.jsonl" in embedded("pipeline", "run", "lost.toml", code=2).stderr
    (embedded.folder / "corpus.jsonl").write_text('{"id": "a", "text": "one"}\n')
    (embedded.folder / "unfit.toml").write_text(
        NULL.replace('task = "summarize"', 'task = "summarize"\npooling = "cls"')
    )
    stderr = embedded("pipeline", "check", "unfit.toml", code=2).stderr
    assert "unfit.toml: step[2].pooling has no meaning for summarize" in stderr
    (embedded.folder / "out.toml").write_text(NULL.partition("[output]")[0] + '[output]\nfile = "no/such/x.jsonl"\n')
    stderr = embedded("pipeline", "check", "out.toml", code=2).stderr
    assert "out.toml: output.file: there is no folder" in stderr
    assert "--out" not in stderr
    assert embedded.json("jobs") == []


def test_a_pipeline_whose_view_needs_a_risk_that_nobody_fitted_is_not_stored(embedded: Docmill) -> None:
    (embedded.folder / "corpus.jsonl").write_text('{"id": "a", "text": "one"}\n')
    escalating = 'model = "null"\nescalate = { beams = 4, when = ["risk>0.3"] }'
    (embedded.folder / "risky.toml").write_text(NULL.replace('model = "null"', escalating, 1) + YEARLY)
    stderr = " ".join(embedded("pipeline", "add", "risky.toml", code=2).stderr.split())
    assert "no risk was fitted for the outputs of translate with null" in stderr
    assert embedded.json("pipeline", "list") == []


@pytest.mark.parametrize("clashing", ["News_en", "news-en__line"])
def test_a_pipeline_whose_views_would_replace_those_of_another_is_refused(embedded: Docmill, clashing: str) -> None:
    (embedded.folder / "corpus.jsonl").write_text('{"id": "a", "text": "one"}\n')
    for name, code in (("news-en", 0), (clashing, 2)):
        (embedded.folder / "a.toml").write_text(NULL.replace("nightly", name) + YEARLY)
        stderr = embedded("pipeline", "add", "a.toml", code=code).stderr
    assert f"the views of {clashing} would replace those of the stored pipeline news-en" in " ".join(stderr.split())
    assert [row["name"] for row in embedded.json("pipeline", "list")] == ["news-en"]


def test_a_run_needs_the_price_of_the_model_to_which_its_corpus_was_migrated(
    database: Database, settings: Settings, tmp_path: Path, advance_run: Callable[..., Any]
) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"id": "a", "text": "one"}\n')
    (tmp_path / "prices.toml").write_text("[null]\ninput = 1\n")
    text = NULL.partition('[[step]]\nname = "line"')[0] + "[job]\nmax-cost = 5\n"
    keep(database, tmp_path, text)
    prices = tmp_path / "prices.toml"
    (step,) = requests_of(settings.model_copy(update={"prices": prices}), parse(text, tmp_path / "nightly.toml"))
    job = read(database, request(corpus="nightly", spec=step.spec), numbered(2))
    finish(database)
    migrate(database, job.corpus_id, step.spec, replace(step.spec, model="null@5"))
    run = advance_run(due_run(database), prices=prices)
    assert run.state == "failed"
    assert "--max-cost needs the price of null@5" in (run.reason or "")


def test_a_pipeline_is_added_shown_listed_and_removed(embedded: Docmill) -> None:
    (embedded.folder / "corpus.jsonl").write_text('{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n')
    text = NULL + YEARLY + "# \u200f\r\n"
    (embedded.folder / "nightly.toml").write_text(text, encoding="utf-8", newline="")
    clashing = (NULL + YEARLY).replace('name = "line"', 'name = "english_status"')
    (embedded.folder / "clashing.toml").write_text(clashing)
    refused = (
        "clashing.toml: step[2].name: "
        'english_status and english would both have the column "english_status" in the view; choose another'
    )
    assert refused in embedded("pipeline", "add", "clashing.toml", code=2).stderr
    assert refused in embedded("pipeline", "check", "clashing.toml").stderr
    long = (
        NULL.replace('"nightly"', f'"{40 * "n"}"').replace('"line"', f'"{16 * "s"}"').replace("summarize", "sparse")
    )
    (embedded.folder / "long.toml").write_text(long + YEARLY)
    stderr = " ".join(embedded("pipeline", "add", "long.toml", code=2).stderr.split())
    assert f'long.toml: step[2].name: the view "items_{40 * "n"}__{16 * "s"}" would have a name of 64 bytes' in stderr
    assert embedded.json("pipeline", "list") == []
    assert "No pipelines yet" in embedded("pipeline", "list").stderr
    assert "`docmill pipeline show nightly` prints" in embedded("pipeline", "run", "nightly", code=2).stderr
    assert "view pipeline_nightly" in embedded("pipeline", "add", "nightly.toml").stderr
    assert embedded("pipeline", "show", "nightly").stdout == text
    assert "00:00 UTC" in embedded("pipeline", "list").stdout
    [listed] = embedded.json("pipeline", "list")
    assert (listed["name"], listed["last_run"]) == ("nightly", None)
    assert listed["next_run"] > 1_767_225_600
    embedded("pipeline", "run", "nightly.toml")
    [run] = embedded.json("pipeline", "history", "nightly")
    assert (run["due"], run["state"], run["job"]) == (None, "done", 1)
    rows = embedded.sql("SELECT id, english, line FROM pipeline_nightly ORDER BY id")
    assert rows == [("a", "one", "one"), ("b", "two", "two")]
    assert "Give --yes to confirm" in embedded("pipeline", "rm", "nightly", code=2).stderr
    assert [pipeline["name"] for pipeline in embedded.json("pipeline", "list")] == ["nightly"]
    embedded("pipeline", "rm", "nightly", "--yes")
    assert embedded.json("pipeline", "list") == []
    assert "no pipeline nightly" in embedded("pipeline", "history", "nightly", code=2).stderr
    assert len(embedded.results(1)) == 2
    steps = '[[step]]\nname = "line"\ntask = "embed"\nmodel = "null"\n[output]\nfile = "lines.xlsx"\n'
    (embedded.folder / "sheet.toml").write_text(NULL.partition("[[step]]")[0] + steps)
    stderr = embedded("pipeline", "run", "sheet.toml").stderr
    assert "lines.xlsx: A vector's cell shows its length" in stderr
    assert "output_lacks" not in stderr


def test_a_run_whose_parts_another_worker_writes_or_whose_results_change_meanwhile_waits_and_does_not_fail(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, advance_run: Callable[..., Any]
) -> None:
    keep(database, tmp_path, NULL.replace('file = "out.jsonl"', 'file = "out"\npart-documents = 2'))
    job = read(database, request(spec=TRANSLATE), numbered(3))
    finish(database, lambda claim: [*failed(claim)[:1], *echo(claim)[1:]])
    run = run_of_job(database, job.id)
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert advance_run(run).state == "running"
    with monkeypatch.context() as patch:
        patch.setattr(HeldLease, "confirm", lambda self: jobs.retry(database, job.id))  # once the rows are read
        assert advance_run(run).state == "running"
    finish(database)
    assert advance_run(run).state == "done"
    assert sorted(path.name for path in (tmp_path / "out").glob("part-*")) == ["part-00000.jsonl", "part-00001.jsonl"]


def test_a_run_whose_job_is_retried_before_its_output_is_written_waits_for_it(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, advance_run: Callable[..., Any]
) -> None:
    keep(database, tmp_path, NULL)
    job = read(database, request(spec=TRANSLATE), numbered(3))
    finish(database, failed)
    run = run_of_job(database, job.id)
    with monkeypatch.context() as patch:
        patch.setattr(pipelines, "file_of", lambda *_: jobs.retry(database, job.id) and ("nightly.toml", NULL))
        assert advance_run(run).state == "running"


def test_a_run_by_hand_whose_job_was_stopped_leaves_the_output_file_as_it_was(
    database: Database, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"id": "1", "text": "a text"}\n')
    (tmp_path / "nightly.toml").write_text(NULL)
    (tmp_path / "out.jsonl").write_text("the last results")
    job = read(database, request(spec=TRANSLATE), numbered(3))
    jobs.cancel(database, job.id)
    monkeypatch.setattr(local_run, "run_here", lambda *_: read_status(database, job.id))
    run_file(settings, database, tmp_path / "nightly.toml", ["cpu"], Listener())
    assert (tmp_path / "out.jsonl").read_text() == "the last results"


def test_the_history_takes_no_number_that_the_store_cannot_take(call: Call) -> None:
    assert "--limit" in call("pipeline", "history", "nightly", "--limit", 10**20, code=2).err


def test_pipelines_are_listed_if_a_schedule_cannot_be_read(call: Call, tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"id": "a", "text": "one"}\n')
    (tmp_path / "nightly.toml").write_text(NULL + YEARLY)
    call("pipeline", "add", "nightly.toml")
    with closing(sqlite3.connect(tmp_path / "home" / "docmill.db")) as store, store:
        store.execute("UPDATE pipeline SET schedule = json_set(schedule, '$.timezone', 'Mars/Olympus')")
    [listed] = call("pipeline", "list", "--json").json()
    assert (listed["schedule"]["timezone"], listed["next_run"]) == ("Mars/Olympus", None)
    assert "(Mars/Olympus)" in call("pipeline", "list").out
    assert "nightly has no runs yet" in call("pipeline", "history", "nightly").err
