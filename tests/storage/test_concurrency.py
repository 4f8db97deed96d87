"""Threads that make moves at random leave a store as the laws have it (see `tests.storage.laws`)."""

from __future__ import annotations

import random

import pytest

from docmill.storage.core.database import Database
from tests.storage.builders import at_once
from tests.storage.concurrency import Rival
from tests.storage.endings import let_everything_finish
from tests.storage.model import make_small

N_RIVALS = 4


@pytest.fixture(autouse=True)
def _small(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(database, monkeypatch)


def compete(database: Database, n_moves: int) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # which moves each of them makes; when, nobody knows
    rivals = [Rival(database, f"{seed}/{n}") for n in range(N_RIVALS)]
    at_once(*[lambda rival=rival: rival.make_moves(n_moves) for rival in rivals])
    let_everything_finish(database)


@pytest.mark.long_on("sqlite")
def test_rivals_break_no_law(database: Database) -> None:
    compete(database, 150)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("_", range(50))
def test_rivals_break_no_law_however_often(database: Database, _: int) -> None:
    compete(database, 200)
