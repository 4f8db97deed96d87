"""Many nights in the time of a test: the clock is moved by moving all times of the store back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Base, PipelineRun
from docmill.storage.deletion import gc, removal
from docmill.storage.deletion.paging import Removed
from docmill.storage.pipelines import pipelines
from tests.faults.test_runs import HOURLY, Crew, fire
from tests.faults.test_runs import crew as crew  # a fixture
from tests.storage.aging import DAY_S, days_pass
from tests.storage.builders import count_rows, documents

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
    return {name: count_rows(database, table) for name, table in Base.metadata.tables.items()}


def find_grown(database: Database, earlier: dict[str, int], later: dict[str, int]) -> dict[str, int]:
    """Return the tables that grew. PostgreSQL merges the rows of its counts after some hundred of them."""
    unmerged = {"shard_count": 1_000, "work_count": 1_000} if database.server else {}
    return {name: n for name, n in later.items() if n > max(earlier[name], unmerged.get(name, 0))}


def records_of(night: int) -> dict[str, str]:
    """Twenty documents, one of the first three of which changes each night."""
    return {f"{n}": f"text {n}" if n > 2 else f"text {n} of night {night - (night - n) % 3}" for n in range(20)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("days", "season", "nights"), [(8, 12, 24), pytest.param(90, SEASON, YEAR, marks=pytest.mark.long)]
)
def test_nightly_runs_of_three_steps_leave_no_more_rows_than_a_season(
    crew: Crew, tmp_path: Path, days: int, season: int, nights: int
) -> None:
    database = crew.database
    crew.settings = crew.settings.model_copy(update={"retention_days": days})
    pipelines.put(database, "nightly", str(tmp_path / "nightly.toml"), STEPS, HOURLY)
    after_a_season = dict[str, int]()
    for night in range(nights):
        lines = [json.dumps({"id": key, "text": text}) for key, text in records_of(night).items()]
        (tmp_path / "corpus.jsonl").write_text("\n".join([*lines, "no JSON"]))
        fire(database, float(night))
        crew.do_all(rounds=2)
        removal.remove_versions(database, days / 2 * DAY_S)
        assert gc.collect(database) == Removed()
        if night == season:
            after_a_season = sizes(database)
        days_pass(database)
    assert {*database.values(select(PipelineRun.state))} == {"done"}
    in_the_end = sizes(database)
    assert find_grown(database, after_a_season, in_the_end) == {}
    assert in_the_end["pipeline_run"] == in_the_end["job"] < season
    assert in_the_end["step_text"] <= 2 * 2  # of two jobs' later steps: the model has one output for all texts
    assert documents(database) == records_of(nights - 1)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == len(lines)
    fire(database, float(nights))
    crew.do_all(rounds=2)
    for name in ("document", "content", "outcome"):
        assert sizes(database)[name] == in_the_end[name], "a night without changes adds nothing"
