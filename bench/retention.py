"""Measure the sizes of the store's tables over a simulated year of nights, with and without rules of retention.

A day passes by moving all times in the store back by a day, so a year takes a minute. Each night, a pipeline reads a
corpus in which some documents changed and one record is wrong, and computes two steps. Another pipeline has a new
model each month. With rules, `docmill gc retention` runs each night.

    python -m bench.retention [--nights 365] [--store sqlite|postgresql]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Double, func, select, update

from bench.pairs import RESULTS
from bench.stores import fresh_postgres, fresh_sqlite
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Base
from docmill.storage.core.specs import Outcome, Spec, Status
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion import retention
from docmill.storage.deletion.paging import RemovalBudget
from docmill.storage.deletion.retention import Ages
from docmill.storage.ingest import ingest
from docmill.storage.ingest.chunks import Chunk, ChunkBuilder
from docmill.storage.leases import dispatch, shards
from docmill.storage.pipelines import pipelines
from docmill.storage.readers import Rejection
from docmill.storage.steps import jobs
from docmill.storage.steps.jobs import JobRequest
from docmill.storage.steps.steps import StepRequest
from docmill.tasks.kinds import STORED_KINDS as KINDS

DAY_S = 86_400.0
# Columns of numbers that are not times, and the due times, which `_run_pipeline` counts in nights.
_UNMOVED_COLUMNS = frozenset(
    {"max_failures", "max_flagged", "confidence", "mean_logprob", "least_logprob", "due_at"}
    | {"max_cost", "ended_cost", "spent"}
)
_SCHEDULE = {"cron": "0 3 * * *", "timezone": "UTC", "overlap": "queue"}
COUNTED = ("job", "pipeline_run", "ingest", "rejection", "shard", "step_text", "document", "content", "outcome")


@dataclass(frozen=True)
class Simulation:
    """The settings of a simulation.

    Each night, `changing` of the documents change. All rules of retention have the same age.
    """

    nights: int = 365
    documents: int = 40
    changing: int = 4
    age_days: float | None = 30.0
    new_model_every: int = 30
    measured_every: int = 7

    @property
    def ages(self) -> Ages | None:
        """Return the ages of all rules in seconds, or None without rules."""
        if self.age_days is None:
            return None
        names = ("runs", "step_texts", "rejections", "shards", "versions", "results")
        return dict.fromkeys(names, self.age_days * DAY_S)


@dataclass
class Year:
    """The number of rows of each table by night, and the number of computed texts."""

    sizes: dict[int, dict[str, int]] = field(default_factory=dict)
    computed: int = 0


def texts(plan: Simulation, night: int) -> Iterator[tuple[str, str]]:
    """Yield the documents of a night as (id, text). Each night, the next `changing` documents have a new text."""
    for number in range(plan.documents):
        turn = number // plan.changing
        turns = max(1, plan.documents // plan.changing)
        yield f"{number}", f"text {number} of turn {(night + turns - turn % turns) // turns}"


def simulate(database: Database, plan: Simulation) -> Year:
    """Simulate the nights of a plan, and return the sizes of the tables."""
    year = Year()
    for name in ("nightly", "trial"):
        pipelines.put(database, name, f"/{name}.toml", "", _SCHEDULE)
    steps = (
        StepRequest("english", Spec("translate", "nightly", "sha256:1")),
        StepRequest("line", Spec("summarize", "nightly", "sha256:1"), "english"),
    )
    for night in range(plan.nights):
        _run_pipeline(database, year, "nightly", night, steps, _build_chunk(texts(plan, night)))
        if night % plan.new_model_every == 0:
            model = Spec("summarize", f"trial {night}", "sha256:1", params={"max_new_tokens": 9})
            chunk = _build_chunk(texts(plan, night))
            _run_pipeline(database, year, "trial", night, (StepRequest("trial", model),), chunk)
        if plan.ages is not None:
            _, is_complete = retention.apply(database, plan.ages, RemovalBudget())
            assert is_complete
        if night % plan.measured_every == 0:
            year.sizes[night] = count_rows(database)
        _pass_day(database)
    return year


def _build_chunk(documents: Iterator[tuple[str, str]]) -> Chunk:
    builder = ChunkBuilder()
    for place, (key, text) in enumerate(documents):
        builder.put(key, text, {}, (), place)
    return builder.chunk()


def _run_pipeline(
    database: Database, year: Year, name: str, night: int, steps: tuple[StepRequest, ...], chunk: Chunk
) -> None:
    """Run a pipeline in a night, from its schedule to its end."""
    [pipeline] = [pipeline for pipeline in pipelines.scheduled(database) if pipeline.name == name]
    run_id = pipelines.fire(database, pipeline, float(night))
    assert run_id is not None
    run = pipelines.take(database, run_id, "night", 60.0)
    assert run is not None
    job_id = _run_job(database, year, JobRequest("nightly", "nightly.jsonl", steps), chunk)
    pipelines.note(database, run, "done", job_id=job_id)


def _run_job(database: Database, year: Year, request: JobRequest, chunk: Chunk) -> int:
    """Ingest a chunk and a wrong record, compute all shards, and return the job's id."""
    job = jobs.open_job(database, request)
    ingest.end(database, job, ingest.add(database, job, chunk, [Rejection("line 99", "no JSON")]))
    while shard_ids := [
        shard_id for lane in dispatch.lanes(database) for ids in dispatch.take(database, lane) for shard_id in ids
    ]:
        for shard_id in shard_ids:
            head = shards.look(database, shard_id)
            claim = None if head is None else shards.claim(database, head, "night")
            if claim is not None:
                outcomes = [Outcome(number, Status.DONE, text=f"<{text}>") for number, text in claim.texts]
                shards.commit(database, claim, outcomes, None)
                year.computed += len(outcomes)
    jobs.finish(database, job.id)
    return job.id


def _pass_day(database: Database) -> None:
    """Move all times in the store back by a day."""

    def move(transaction: Transaction) -> None:
        for table in Base.metadata.tables.values():
            numbers = [column for column in table.columns if isinstance(column.type, Double)]
            moved = {column.name: column - DAY_S for column in numbers if column.name not in _UNMOVED_COLUMNS}
            if moved:
                transaction.execute(update(table).values(**moved))

    database.write(move)


def count_rows(database: Database) -> dict[str, int]:
    """Return the number of rows of each table."""
    with database.read() as transaction:
        return {
            name: transaction.scalar(select(func.count()).select_from(table)) or 0
            for name, table in Base.metadata.tables.items()
        }


def compute_growth(year: Year, since: int) -> dict[str, float]:
    """Return the growth of each table that grew: its most rows in the last third of nights over its most before.

    Nights before `since` do not count, since the rules remove nothing yet. The table of specs keeps a row for each
    model and is left out.
    """
    nights = [night for night in sorted(year.sizes) if night >= since]
    third = max(1, len(nights) // 3)

    def count_most(some_nights: Sequence[int], table: str) -> int:
        return max(year.sizes[night][table] for night in some_nights)

    tables = {table for night in nights for table in year.sizes[night]} - {"spec"}
    last, before = nights[-third:], nights[:-third]
    ratios = {table: count_most(last, table) / max(1, count_most(before, table)) for table in tables}
    return {table: ratio for table, ratio in sorted(ratios.items()) if ratio > 1}


def _draw(years: Mapping[str, Year]) -> None:
    """Draw the rows of three tables. Each table has a color, and lines with rules are dashed."""
    import pygal
    from pygal.style import DefaultStyle

    tables = {"outcome": "#b00020", "shard": "#00629b", "job": "#2e7d32"}
    chart = pygal.XY(
        title="Rows of the store over a year of nights",
        x_title="night",
        y_title="rows",
        show_dots=False,
        truncate_legend=-1,
        style=DefaultStyle(colors=(*tables.values(),) * len(years)),
        js=[],
    )
    for name, year in years.items():
        for table in tables:
            points = [(night, rows[table]) for night, rows in sorted(year.sizes.items())]
            dashes = {"dasharray": "6, 4"} if name == "with rules" else {}
            chart.add(f"{table}, {name}{' (dashed)' if dashes else ''}", points, stroke_style={"width": 2, **dashes})
    chart.render_to_file(str(RESULTS / "retention.svg"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nights", type=int, default=Simulation.nights)
    parser.add_argument("--store", choices=["sqlite", "postgresql"], default="sqlite")
    options = parser.parse_args(arguments)
    plans = {
        "with rules": Simulation(nights=options.nights),
        "without rules": Simulation(nights=options.nights, age_days=None),
    }
    years = dict[str, Year]()
    facts = dict[str, object]()
    for name, plan in plans.items():
        with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
            store = fresh_postgres() if options.store == "postgresql" else fresh_sqlite(Path(folder))
            database = Database(stack.enter_context(store), kinds=KINDS)
            began = time.monotonic()
            years[name] = simulate(database, plan)
            seconds = time.monotonic() - began
            database.close()
        last = {table: years[name].sizes[max(years[name].sizes)][table] for table in COUNTED}
        facts[name] = {
            "rows_at_the_end": last,
            "growth_in_the_last_third": compute_growth(years[name], since=70),
            "texts_computed": years[name].computed,
            "seconds": round(seconds, 1),
            "sizes": years[name].sizes,
        }
        print(f"{name}: {last}; grew: {facts[name]['growth_in_the_last_third']}")  # type: ignore[index]
    (RESULTS / "retention.json").write_text(json.dumps({"store": options.store, **facts}, indent=1) + "\n")
    _draw(years)
    return 0


if __name__ == "__main__":
    sys.exit(main())
