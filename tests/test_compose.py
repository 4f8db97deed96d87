"""The compose file, its environment file and the image are pinned, complete and closed to the network."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.containers import DOCKERFILE, FILE, read_services
from tests.worker.harness import ROOT

COMPOSE = FILE.read_text()
CODE = "\n".join(line for line in COMPOSE.splitlines() if not line.lstrip().startswith("#"))
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
LOCK = runpy.run_path(str(ROOT / "docker" / "lock.py"))
LOCKED = LOCK["EXTRAS"].split(",")
OURS = ("migrate", "worker", "worker-gpu", "cli", "exporter", "web", "batch")


def test_every_image_is_pinned_to_a_version() -> None:
    for name in SERVICES.keys() - {*OURS}:
        assert re.search(r":v?\d+\.?\d*", SERVICES[name]["image"]), name
    [python] = re.findall(r"^ARG PYTHON=(.*)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"3\.11\.\d+-slim-\w+", python)
    assert {line.split()[1] for line in DOCKERFILE.splitlines() if line.startswith("FROM")} == {
        "python:${PYTHON}",
        "packages",  # the stage before
    }
    assert f'base.name="python:{python}"' in DOCKERFILE


def test_no_password_stands_in_a_file_of_the_project() -> None:
    assert not re.search(r"://[^\s/]*:(?!\$\{\w+:\?)[^\s/@]+@", CODE)
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            assert name != "HF_TOKEN" or value is None
            assert "PASSWORD" not in name or re.fullmatch(rf"\$\{{{name}:\?.*\}}", value)
    example = (ROOT / ".env.example").read_text()
    assert re.findall(r"^(\w+_PASSWORD)=(.*)$", example, re.MULTILINE) == [
        ("REDIS_PASSWORD", ""),
        ("POSTGRES_PASSWORD", ""),
    ]


def test_neither_the_queue_nor_the_database_is_published() -> None:
    assert not any("network_mode" in service for service in SERVICES.values())
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.keys() == {"web", "batch", "grafana"}
    assert all(port.startswith("127.0.0.1:") for [port] in published.values())


def test_every_variable_is_explained_in_the_example() -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", CODE))
    passed = {name for name, value in SERVICES["worker"]["environment"].items() if value is None}
    explained = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert used | passed == explained


def test_every_setting_is_one_that_docmill_knows() -> None:
    from docmill.worker.settings import Settings

    settings = {f"DOCMILL_{name.upper()}" for name in Settings.model_fields}
    files = ["docker-compose.yml", ".env.example", "Dockerfile", "docs/deploy.md", "examples/schedulers/crontab"]
    for file in (*map(ROOT.joinpath, files), *(ROOT / "deploy" / "systemd").glob("docmill-*.*")):
        mentioned = set(re.findall(r"\bDOCMILL_[A-Z_]+", file.read_text())) - {"DOCMILL_"}
        assert mentioned <= settings, file
        assert mentioned or file.suffix in {".target", ".timer"}, file


def test_the_example_explains_every_setting_with_its_default() -> None:
    from docmill.worker.settings import Settings

    example = dict(re.findall(r"^#DOCMILL_(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    settings = {name.upper(): field.default for name, field in Settings.model_fields.items()}
    assert example.keys() == settings.keys()
    for name in ("DTYPE", "BACKEND", "THREADS"):
        assert example[name] == str(settings[name])
    for name in ("LEASE_S", "UPKEEP_S", "DRAIN_S", "BATCH_LIMIT_S", "HANG_S", "RETENTION_DAYS"):
        assert float(example[name]) == settings[name]
        assert f"DOCMILL_{name}: ${{DOCMILL_{name}:-{example[name]}}}" in COMPOSE


def test_a_filled_example_is_a_valid_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from docmill.worker.settings import load_settings

    for line in (ROOT / ".env.example").read_text().splitlines():
        if match := re.fullmatch(r"#(DOCMILL_\w+)=(.*)", line):
            monkeypatch.setenv(*match.groups())
    monkeypatch.setenv("DOCMILL_MODELS_DIR", str(tmp_path))  # the example's is in the container
    monkeypatch.chdir(tmp_path)
    assert load_settings().redis_url == "redis://:PASSWORD@queue.example:6379/0"


def test_our_containers_run_without_privileges_on_a_read_only_disk() -> None:
    assert "useradd --uid 10001 " in DOCKERFILE
    assert "\nUSER 10001\n" in DOCKERFILE
    for name, service in SERVICES.items():
        assert service["read_only"] is True, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "mem_limit" in service, name
        assert "user" not in service
        assert "privileged" not in service
    for name in OURS:
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        # The reader of PDF unpacks a library there and loads it, which Docker's tmpfs refuses unless told otherwise.
        assert SERVICES[name]["tmpfs"] == ["/tmp:exec,mode=1777,size=1g"]


def test_the_compose_file_follows_the_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run([*command, str(FILE)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    if (program := shutil.which("hadolint", path=str(Path(sys.executable).parent))) is None:
        pytest.skip("hadolint has no package for this machine")
    checked = subprocess.run([program, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def expand_requirements(project: dict[str, Any], extras: Iterable[str]) -> Iterator[str]:
    """Yield the requirements of the project with extras, and with those that they name."""
    yield from project["dependencies"]
    for name in extras:
        for requirement in project["optional-dependencies"][name]:
            if (inner := Requirement(requirement)).name == "docmill":
                yield from expand_requirements(project, inner.extras)
            else:
                yield requirement


@pytest.mark.parametrize("variant", ["build", "cpu", "cuda"])
def test_a_lock_has_a_hash_for_each_package_and_versions_that_the_project_takes(variant: str) -> None:
    lines = (ROOT / "docker" / f"requirements-{variant}.lock").read_text().splitlines()[1:]
    pattern = re.compile(r"([a-z0-9._-]+)==(\S+) --hash=sha256:[0-9a-f]{64}")
    matches = [pattern.fullmatch(line) for line in lines]
    assert all(matches)
    versions = {canonicalize_name(match[1]): Version(match[2]) for match in matches if match is not None}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    requirements = project["build-system"]["requires"]
    if variant != "build":
        requirements = [*expand_requirements(project["project"], LOCKED)]
        assert (versions[canonicalize_name("torch")].local == "cpu") == (variant == "cpu")
    for requirement in map(Requirement, requirements):
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: {version}; run `make lock`"


@pytest.mark.parametrize(
    ("variant", "index", "packages"), [("cpu", "an index", "cpu"), ("cpu", "", "cuda"), ("cuda", "", "cuda")]
)
def test_without_an_index_of_builds_for_cpus_the_image_has_those_for_gpus(
    variant: str, index: str, packages: str
) -> None:
    [choice] = [line.strip(" \\") for line in DOCKERFILE.splitlines() if line.strip().startswith("packages=")]
    environment = {"VARIANT": variant, "PIP_EXTRA_INDEX_URL": index, "PATH": os.defpath}
    script = f"{choice} echo requirements-$packages.lock"
    completed = subprocess.run(["sh", "-ec", script], env=environment, capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == f"requirements-{packages}.lock"
    assert (ROOT / "docker" / completed.stdout.strip()).exists()


def test_images_are_of_this_tree_unless_a_release_is_named() -> None:
    def images(**variables: str) -> set[str]:
        services = read_services({"POSTGRES_PASSWORD": "p", "REDIS_PASSWORD": "r", **variables})
        return {services[name]["image"] for name in OURS}

    assert images() == {"docmill:local", "docmill:local-cuda"}
    assert images(IMAGE_VERSION="1.2.0") == {"docmill:1.2.0", "docmill:1.2.0-cuda"}
