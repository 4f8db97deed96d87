"""A year of nights in the time of a test: the clock is moved by moving all times of the store back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import Double, func, select, update

from storage.database import Database
from storage.flow import pipelines
from storage.schema import Base, PipelineRun
from tests.faults.test_runs import HOURLY, Crew, fire
from tests.faults.test_runs import crew as crew  # a fixture

DAY_S = 86_400.0
NIGHTS = 365
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


def a_day_passes(database: Database) -> None:
    for table in Base.metadata.tables.values():
        times = [column for column in table.columns if isinstance(column.type, Double) and column.name != "due_at"]
        moved = {column.name: column - DAY_S for column in times if column.name != "max_failures"}
        if moved:
            earlier = update(table).values(**moved)
            database.write(lambda connection, earlier=earlier: connection.execute(earlier))  # type: ignore[misc]


def sizes(database: Database) -> dict[str, int]:
    with database.read() as connection:
        return {
            name: connection.scalar(select(func.count()).select_from(table)) or 0
            for name, table in Base.metadata.tables.items()
        }


@pytest.mark.slow
def test_a_year_of_nightly_runs_of_three_steps_leaves_no_more_rows_than_a_season(crew: Crew, tmp_path: Path) -> None:
    lines = [json.dumps({"id": f"{n}", "text": f"text {n}"}) for n in range(20)]
    (tmp_path / "corpus.jsonl").write_text("\n".join([*lines, "no JSON"]))
    pipelines.put(crew.database, "nightly", str(tmp_path / "nightly.toml"), STEPS, HOURLY)
    after_a_season = dict[str, int]()
    for night in range(NIGHTS):
        fire(crew.database, float(night))
        crew.do_all(rounds=2)
        if night == 100:
            after_a_season = sizes(crew.database)
        a_day_passes(crew.database)
    with crew.database.read() as connection:
        assert {*connection.scalars(select(PipelineRun.state))} == {"done"}
    after_a_year = sizes(crew.database)
    assert {name: n for name, n in after_a_year.items() if n > after_a_season[name]} == {}
    assert after_a_year["pipeline_run"] == after_a_year["job"] < 100
    assert after_a_year["step_text"] <= 2 * 2 * len(lines)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == len(lines)
