"""Weeks of nights in fast time: with rules of retention no table grows, and without them they do."""

from __future__ import annotations

import pytest

from bench.retention import Simulation, growth, simulate
from docmill.storage.core.database import Database

SETTLED = 8  # nights


def weeks(age_days: float | None) -> Simulation:
    return Simulation(nights=20, documents=6, changing=2, age_days=age_days, a_new_model_each=5, measured_each=1)


@pytest.mark.slow
def test_with_rules_no_table_grows_and_nothing_is_computed_again(database: Database) -> None:
    with_rules = simulate(database, weeks(age_days=3.0))
    grew = {*growth(with_rules, since=SETTLED)}
    assert grew <= ({"shard_count", "work_count"} if database.server else set()), (
        "PostgreSQL merges counts now and then"
    )
    last = with_rules.sizes[max(with_rules.sizes)]
    assert last["job"] <= 6
    assert last["shard_count"] < (700 if database.server else 200)  # PostgreSQL merges after each 500 rows
    assert last["outcome"] <= 12 * 6
    plan = weeks(None)
    new = 2 * plan.changing * (plan.nights - 1)  # each of the two steps computes the texts that changed
    trials = plan.documents * len(range(0, plan.nights, plan.a_new_model_each))
    assert with_rules.computed == 2 * plan.documents + new + trials
