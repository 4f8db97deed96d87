from __future__ import annotations

import platform
import re
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
COMPOSE = (ROOT / "docker-compose.yml").read_text()
CODE = "\n".join(line for line in COMPOSE.splitlines() if not line.lstrip().startswith("#"))
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
OURS = ("migrate", "worker", "cli")


def test_every_image_is_pinned_to_a_version() -> None:
    for name, service in SERVICES.items():
        assert re.search(r":\d+\.?\d*", service["image"]), name
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        assert not line.startswith("FROM") or re.search(r":\d+\.\d+", line)


def test_no_password_stands_in_a_file_of_the_project() -> None:
    assert not re.search(r"://[^\s/]*:(?!\$\{\w+:\?)[^\s/@]+@", CODE)
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            assert "PASSWORD" not in name or re.fullmatch(rf"\$\{{{name}:\?.*\}}", value)
    example = (ROOT / ".env.example").read_text()
    assert re.findall(r"^(\w+_PASSWORD)=(.*)$", example, re.MULTILINE) == [
        ("REDIS_PASSWORD", ""),
        ("POSTGRES_PASSWORD", ""),
    ]


def test_neither_the_queue_nor_the_database_is_published() -> None:
    assert not any("ports" in service or "network_mode" in service for service in SERVICES.values())


def test_every_variable_is_explained_in_the_example() -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", CODE))
    explained = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert used == explained


def test_every_setting_is_one_that_docmill_knows() -> None:
    from worker.settings import Settings

    known = {f"DOCMILL_{name.upper()}" for name in Settings.model_fields}
    for file in ("docker-compose.yml", ".env.example", "Dockerfile"):
        named = set(re.findall(r"\bDOCMILL_[A-Z_]+", (ROOT / file).read_text())) - {"DOCMILL_"}
        assert named <= known, file
        assert named


def test_a_filled_example_is_a_valid_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.settings import load_settings

    for line in (ROOT / ".env.example").read_text().splitlines():
        if match := re.fullmatch(r"#(DOCMILL_\w+)=(.*)", line):
            monkeypatch.setenv(*match.groups())
    monkeypatch.setenv("DOCMILL_MODELS_DIR", str(tmp_path))  # the example's is in the container
    monkeypatch.chdir(tmp_path)
    assert load_settings().redis_url == "redis://:PASSWORD@queue.example:6379/0"


def test_workers_start_after_the_schema_is_there_and_the_queue_answers() -> None:
    assert SERVICES["migrate"]["command"] == ["db", "upgrade"]
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("worker", "cli"):
        assert SERVICES[name]["depends_on"] == {
            "migrate": {"condition": "service_completed_successfully"},
            "redis": {"condition": "service_healthy"},
        }
    for service in SERVICES.values():
        for other, wanted in service.get("depends_on", {}).items():
            assert wanted["condition"] != "service_healthy" or "healthcheck" in SERVICES[other]


def test_a_stopping_worker_gets_more_time_than_it_takes() -> None:
    from worker.settings import Settings

    grace_s = int(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace_s >= Settings.model_fields["drain_s"].default + 10


def test_everything_that_lasts_is_on_a_named_volume_and_what_should_run_is_restarted() -> None:
    volumes = yaml.safe_load(COMPOSE)["volumes"]
    mounted = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert set(volumes) <= mounted
    for name in ("redis", "postgres", "worker"):
        assert SERVICES[name]["restart"] == "unless-stopped"


def test_our_containers_run_without_privileges() -> None:
    assert "\nUSER docmill\n" in (ROOT / "Dockerfile").read_text()
    for name in OURS:
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        assert "user" not in SERVICES[name]


def test_the_queue_keeps_what_it_was_given() -> None:
    script = SERVICES["redis"]["command"][-1]
    assert "appendonly yes" in script
    assert "maxmemory-policy noeviction" in script


def test_the_health_check_tells_a_worker_of_this_host_from_none(sqlite_url: str, tmp_path: Path) -> None:
    from storage import dispatch
    from storage.database import Database

    def healthy() -> bool:
        environment = {"DOCMILL_DATABASE_URL": sqlite_url, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(ROOT / "docker" / "healthcheck.py")]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode == 0

    database = Database(sqlite_url)
    sign_on = partial(dispatch.sign_on, database, pid=1, device="cpu", lanes=["embed"], slots=1, version="0")
    sign_on("elsewhere", host="another-host")
    assert not healthy()
    sign_on("here", host=platform.node())
    assert healthy()
    database.close()


def test_the_ci_script_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0


def test_the_image_carries_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {SERVICES[name]["image"] for name in OURS} == {f"docmill:{version}"}
