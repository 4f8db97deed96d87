"""Any order of moves leaves the store as a model of it says (see `tests.storage.model`, `tests.storage.laws`)."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from docmill.storage.core.database import Database
from tests.storage.machine import ShardLife
from tests.storage.model import make_small

BRIEF = settings(
    stateful_step_count=40,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(BRIEF, max_examples=2_000, stateful_step_count=80)
EXAMPLES = {"sqlite": 8, "postgresql": 4}  # the latter take twice as long; `make soak` tries many more


@pytest.fixture
def life(database: Database, monkeypatch: pytest.MonkeyPatch) -> type[ShardLife]:
    make_small(database, monkeypatch)
    return type("ShardLifeHere", (ShardLife,), {"database": database})


@pytest.mark.slow
@pytest.mark.timeout(900)  # a failure is made small before it is shown
def test_a_shards_life_is_as_its_model_in_any_order(life: type[ShardLife]) -> None:
    examples = EXAMPLES[life.database.engine.dialect.name]
    run_state_machine_as_test(life, settings=settings(BRIEF, max_examples=examples))


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_a_shards_life_is_as_its_model_in_very_many_orders(life: type[ShardLife]) -> None:
    run_state_machine_as_test(life, settings=LONG)
