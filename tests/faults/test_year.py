"""Many nights in the time of a test: the clock is moved by moving all times of the store back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import func, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Base, Content, OutcomeRow, PipelineRun, db_now
from docmill.storage.deletion import gc, removal
from docmill.storage.deletion.paging import Removed
from docmill.storage.pipelines import pipelines
from tests.faults.test_runs import HOURLY, Crew, fire
from tests.faults.test_runs import crew as crew  # a fixture
from tests.storage.aging import DAY_S, days_pass
from tests.storage.builders import documents

YEAR = 365
SEASON = 100  # more than the 90 days after which nothing should grow any more
STEPS = """
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
[[step]]
name = "short"
task = "summarize"
model = "null"
[output]
file = "out.jsonl"
"""


def sizes(database: Database) -> dict[str, int]:
    with database.read() as transaction:
        return {
            name: transaction.scalar(select(func.count()).select_from(table)) or 0
            for name, table in Base.metadata.tables.items()
        }


def grown(database: Database, before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Return the tables that grew. PostgreSQL merges the rows of its counts after some hundred of them."""
    unmerged = {"shard_count": 1_000, "work_count": 1_000} if database.server else {}
    return {name: n for name, n in after.items() if n > max(before[name], unmerged.get(name, 0))}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("days", "season", "nights"), [(8, 12, 24), pytest.param(90, SEASON, YEAR, marks=pytest.mark.long)]
)
def test_nightly_runs_of_three_steps_leave_no_more_rows_than_a_season(
    crew: Crew, tmp_path: Path, days: int, season: int, nights: int
) -> None:
    crew.settings = crew.settings.model_copy(update={"retention_days": days})
    lines = [json.dumps({"id": f"{n}", "text": f"text {n}"}) for n in range(20)]
    (tmp_path / "corpus.jsonl").write_text("\n".join([*lines, "no JSON"]))
    pipelines.put(crew.database, "nightly", str(tmp_path / "nightly.toml"), STEPS, HOURLY)
    after_a_season = dict[str, int]()
    for night in range(nights):
        fire(crew.database, float(night))
        crew.do_all(rounds=2)
        if night == season:
            after_a_season = sizes(crew.database)
        days_pass(crew.database)
    with crew.database.read() as transaction:
        assert {*transaction.scalars(select(PipelineRun.state))} == {"done"}
    in_the_end = sizes(crew.database)
    assert grown(crew.database, after_a_season, in_the_end) == {}
    assert in_the_end["pipeline_run"] == in_the_end["job"] < season
    assert in_the_end["step_text"] <= 2 * 2  # of two jobs' later steps: the model has one output for all texts
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == len(lines)


LIMIT_DAYS = 30
ONE_STEP = STEPS[: STEPS.index("[[step]]", STEPS.index("[[step]]") + 1)] + STEPS[STEPS.index("[output]") :]


def texts_of(night: int) -> list[tuple[str, str]]:
    """Documents: one changes each night, one changes back after 40 days, some never change, one is there twice."""
    texts = [(f"{n}", f"text {n}" if n > 2 else f"text {n} of night {night - (night - n) % 3}") for n in range(6)]
    return [*texts, ("there and back", f"month {night // 40 % 2}"), ("twice", "first"), ("twice", "last")]


@pytest.mark.long
def test_nights_that_change_documents_leave_what_is_current_and_a_months_versions(crew: Crew, tmp_path: Path) -> None:
    database = crew.database
    pipelines.put(database, "nightly", str(tmp_path / "nightly.toml"), ONE_STEP, HOURLY)
    largest: dict[str, dict[str, int]] = {"before": {}, "after": {}}  # the first season, and since then
    for night in range(YEAR):
        lines = [json.dumps({"id": key, "text": text}) for key, text in texts_of(night)]
        (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
        fire(database, float(night))
        crew.do_all(rounds=2)
        if night % 7 == 0:
            removal.remove_versions(database, LIMIT_DAYS * DAY_S)
            assert gc.collect(database) == Removed()
        part = largest["before" if night < SEASON else "after"]
        part |= {name: max(n, part.get(name, 0)) for name, n in sizes(database).items()}
        days_pass(database)
    assert grown(database, largest["before"], largest["after"]) == {}
    assert largest["after"]["document"] <= 10 + 2 * (LIMIT_DAYS + 7)
    assert documents(database) == dict(texts_of(YEAR - 1))
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in lines} == {*documents(database)}
    removal.remove_versions(database, LIMIT_DAYS * DAY_S)
    assert_an_unchanged_night_adds_nothing(crew, YEAR)
    with database.read() as transaction:  # what did not change was computed once, longer ago than the limit
        query = select(OutcomeRow.created_at - db_now()).join(Content, Content.id == OutcomeRow.content_id)
        ages = transaction.scalars(query.where(Content.text.in_(["text 3", "text 4", "text 5", "last"]))).all()
    assert len(ages) == 4
    assert max(ages) < -(YEAR - 2) * DAY_S


def assert_an_unchanged_night_adds_nothing(crew: Crew, night: int) -> None:
    before = sizes(crew.database)
    fire(crew.database, float(night))
    crew.do_all(rounds=2)
    after = sizes(crew.database)
    assert {name: after[name] - before[name] for name in ("document", "content", "outcome")} == {
        "document": 0,
        "content": 0,
        "outcome": 0,
    }
