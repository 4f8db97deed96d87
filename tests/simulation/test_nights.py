"""Simulated nights of supervisors, queue and store, and bugs that they find."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from sqlalchemy import bindparam, update

from docmill.storage.core.schema import PipelineRun, Shard
from docmill.storage.leases import maintenance, policy, shards
from docmill.storage.pipelines import pipelines
from docmill.storage.steps import jobs
from tests.simulation.night import Nights
from tests.simulation.scheduler import Namespace, NightFailed

FEW = 8
MANY = 1_000
PARTS = 20  # the many nights are divided among pytest's workers
BASE = int(os.environ.get("DOCMILL_TEST_SEED", time.time_ns() // 1_000_000_000 * MANY))


@pytest.fixture(scope="module")
def nights() -> Iterator[Nights]:
    """Nights with a common store, in memory if possible."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        shared = Nights(Path(folder))
        yield shared
        shared.store.close()


def _run(nights: Nights, seeds: Iterable[int], fault: str | None = None) -> None:
    for seed in seeds:
        nights.run(seed, fault)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_everything_ends_and_no_law_is_broken_whatever_fails_in_a_night(nights: Nights) -> None:
    _run(nights, range(FEW))


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("part", range(PARTS))
def test_a_thousand_nights(nights: Nights, part: int) -> None:
    """Each run has other nights; DOCMILL_TEST_SEED names the first one."""
    print(f"DOCMILL_TEST_SEED={BASE}")
    _run(nights, range(BASE + part, BASE + MANY, PARTS))


@pytest.mark.slow
def test_a_seed_repeats_its_night_in_every_process(nights: Nights) -> None:
    command = [sys.executable, "-m", "tests.simulation.night", "7"]
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert nights.run(7).fingerprint[:16] in output
    assert nights.run(8).fingerprint[:16] not in output


class _Any:
    """Equal to everything."""

    def __eq__(self, _: object) -> bool:
        return True

    def __ne__(self, _: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


def _lock_unfenced(transaction: Any, shard_id: int, *, real: Callable[..., Any] = shards._lock, **more: Any) -> Any:
    row = real(transaction, shard_id)
    return None if row is None else Namespace(**row._asdict() | {"fence": _Any(), "started_at": _Any()} | more)


# A claim that checks neither the state of the shard nor that of its job, and accepts a later fence.
_TAKE_ANYHOW = (
    update(Shard)
    .where(Shard.id == bindparam("shard"), Shard.fence >= bindparam("seen"))
    .values(shards._TAKE._values or {})
    .returning(*shards._CLAIMED)
)


def _reclaim_dead_only(
    database: Any, owner: str | None = None, *, real: Any = maintenance.reclaim, **more: Any
) -> int:
    return 0 if owner is None else real(database, owner, **more)


# Each bug: the module and attribute to replace, its replacement, and the fault that shows the bug soonest.
BUGS: dict[str, tuple[Any, str, Any, str | None]] = {
    "a commit checks neither fence nor time of its claim": (shards, "_lock", _lock_unfenced, "cut_off_store"),
    "a commit checks no lease": (shards, "_lock", partial(_lock_unfenced, state="running"), "cut_off_store"),
    "a claim is no compare-and-set": (shards, "_TAKE", _TAKE_ANYHOW, "break_queue"),
    "what is given back keeps its fence": (
        shards,
        "FREE",
        {name: value for name, value in jobs.FREE.items() if name != "fence"},
        "kill_device",
    ),
    "lapsed leases are not reclaimed": (maintenance, "reclaim", _reclaim_dead_only, "lose_power"),
    "lost hints are not sent again": (maintenance, "lost_hints", lambda *_, **__: [], "empty_queue"),
    "a death makes no suspect": (maintenance, "after_death", lambda **_: policy.PlanAgain(suspect=0), None),
    "a job with running shards ends": (jobs, "OPEN_SHARDS", ("planned", "queued"), None),
    "outputs are not passed to the next step": (
        shards,
        "Traversal",
        lambda *_: mock.Mock(count_doubtful=lambda *_, **__: None),
        None,
    ),
    "a run's holder checks no fence": (pipelines, "_is_held", lambda run: PipelineRun.id == run.id, "suspend"),
    "runs are handed out once": (pipelines, "HAND_AGAIN_S", 1e9, "empty_queue"),
}


def test_the_attributes_that_the_bugs_replace_exist() -> None:
    assert [name for module, name, *_ in BUGS.values() if not hasattr(module, name)] == []


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("bug", BUGS)
def test_nights_find_a_bug(nights: Nights, bug: str) -> None:
    module, name, broken, fault = BUGS[bug]
    with mock.patch.object(module, name, broken), pytest.raises(NightFailed, match="repeat it"):
        _run(nights, range(300), fault)
