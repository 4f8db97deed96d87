"""The examples for schedulers, each under its scheduler in an environment of its own (`make test-schedulers`)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fault_points import FAULT, SITE, STRUCK
from tests.faults.servers import missing
from tests.worker.harness import DOCMILL, EXAMPLES, ROOT, Docmill

pytestmark = [pytest.mark.schedulers, pytest.mark.timeout(600)]

N = 12
DELAY = "60"  # in the examples, in seconds; nobody waits so long here

PREFECT = """
import sys
from prefect_flow import docmill_embed
docmill_embed(*sys.argv[1:])
"""


@dataclass(frozen=True)
class Scheduler:
    """A scheduler's example, and the command that runs it with a source and a file for the results."""

    example: str
    command: Callable[[Path, Path, Path], list[str]]
    environment: Mapping[str, str]
    setup: str | None = None


def _airflow(folder: Path, source: Path, out: Path) -> list[str]:
    parameters = json.dumps({"source": str(source), "out": str(out)})
    return ["airflow", "dags", "test", "docmill_embed", "--conf", parameters]


def _dagster(folder: Path, source: Path, out: Path) -> list[str]:
    parameters = {"ops": {"enqueue": {"config": {"source": str(source)}}, "results": {"config": {"out": str(out)}}}}
    (folder / "run.yaml").write_text(json.dumps(parameters))  # JSON is YAML
    example = str(folder / "dagster_job.py")
    return ["dagster", "job", "execute", "-f", example, "-j", "docmill_embed", "-c", str(folder / "run.yaml")]


def _prefect(folder: Path, source: Path, out: Path) -> list[str]:
    return ["python", "-c", PREFECT, str(source), str(out)]


SCHEDULERS = {
    "airflow": Scheduler(
        "airflow_dag.py",
        _airflow,
        {
            "AIRFLOW_HOME": "{folder}",
            "AIRFLOW__CORE__DAGS_FOLDER": "{folder}",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        },
        "airflow db migrate",
    ),
    "dagster": Scheduler("dagster_job.py", _dagster, {"DAGSTER_HOME": "{folder}", "DAGSTER_DISABLE_TELEMETRY": "1"}),
    "prefect": Scheduler(
        "prefect_flow.py",
        _prefect,
        {
            "PREFECT_HOME": "{folder}",
            "PYTHONPATH": "{folder}",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",  # 20 are too few on a busy machine
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        },
    ),
}


class Scheduled:
    """An example in a folder of its own, and the store that it works on."""

    def __init__(self, name: str, docmill: Docmill, folder: Path) -> None:
        self._bin = ROOT / f".venv-{name}" / "bin"
        self._scheduler = SCHEDULERS[name]
        self._folder = folder
        folder.mkdir()
        example = (EXAMPLES / "schedulers" / self._scheduler.example).read_text()
        assert DELAY in example
        (folder / self._scheduler.example).write_text(example.replace(DELAY, "1"))
        own = {key: value.format(folder=folder) for key, value in self._scheduler.environment.items()}
        self.environment = docmill.environment | own | {"DOCMILL": DOCMILL}
        if self._scheduler.setup is not None:
            completed = self._run(self._scheduler.setup.split())
            assert completed.returncode == 0, completed.stdout

    def __call__(self, source: Path, out: Path) -> tuple[int, str]:
        """Run the example once. Return its exit code and output."""
        completed = self._run(self._scheduler.command(self._folder, source, out))
        return completed.returncode, completed.stdout

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self._bin / command[0]), *command[1:]],
            cwd=self._folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=500,
        )


@pytest.fixture
def docmill(tmp_path: Path) -> Docmill:
    return Docmill(tmp_path, {})


@pytest.fixture(params=SCHEDULERS)
def scheduled(request: pytest.FixtureRequest, docmill: Docmill) -> Scheduled:
    if not (ROOT / f".venv-{request.param}" / ".installed").exists():
        missing(f"there is no environment for {request.param} (make setup-schedulers)")
    return Scheduled(request.param, docmill, docmill.folder / request.param)


def test_a_flow_enqueues_waits_and_reads_results_and_a_retry_after_a_kill_continues_the_same_job(
    scheduled: Scheduled, docmill: Docmill
) -> None:
    source, out = docmill.folder / "articles.jsonl", docmill.folder / "vectors.jsonl"
    lines = (EXAMPLES / "descriptions.jsonl").read_text().splitlines()[:N]
    source.write_text("\n".join(lines) + "\n")
    path = filter(None, [str(SITE), scheduled.environment.get("PYTHONPATH")])
    scheduled.environment |= {FAULT: "enqueue:kill", "PYTHONPATH": os.pathsep.join(path)}  # once
    with docmill.worker("--device", "cpu"):
        code, output = scheduled(source, out)
    assert code == 0, output
    assert len((docmill.folder / "home" / STRUCK).read_text().splitlines()) == 1
    assert "Job 1 was unfinished. It continues" in output
    assert [job["id"] for job in docmill.json("jobs")] == [1]
    results = [json.loads(line) for line in out.read_text().splitlines()]
    assert [result["id"] for result in results] == [json.loads(line)["id"] for line in lines]
    assert all(len(result["vector"]) == 384 for result in results)


def test_a_flow_that_docmill_refuses_fails_with_its_message_and_is_not_tried_again(
    scheduled: Scheduled, docmill: Docmill
) -> None:
    code, output = scheduled(docmill.folder / "nowhere.jsonl", docmill.folder / "out.jsonl")
    assert code != 0, output
    assert "exit code 2: docmill: " in output
    assert "nowhere.jsonl: no such file or folder" in output
    assert docmill.json("jobs") == []
    assert not (docmill.folder / "out.jsonl").exists()
