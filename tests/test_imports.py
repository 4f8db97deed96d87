"""Commands import little: those that compute nothing load no model library, and help loads next to nothing."""

from __future__ import annotations

import json
import os
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from docmill.storage.core.database import Database
from tests.kinds import KINDS
from tests.storage.builders import numbered, read, request
from tests.worker.harness import ROOT, run_python


def loaded_after(code: str, **environment: str) -> set[str]:
    program = f"import sys\n{code}\nsys.stderr.write(' '.join(sys.modules))"
    return set(run_python(program, env=os.environ | environment).stderr.split())


def test_supervisors_and_enqueues_load_no_model_library() -> None:
    modules = ("process.supervisor", "process.device", "cli.commands.run", "jobs.local_run")
    loaded = loaded_after("".join(f"import docmill.worker.{module}\n" for module in modules))
    assert "docmill.worker.jobs.local_run" in loaded
    assert not loaded & {"torch", "transformers", "sentence_transformers"}


def test_a_run_starts_its_device_processes_before_it_loads_the_store() -> None:
    loaded = loaded_after("import docmill.worker.cli.commands.run")
    assert "docmill.worker.process.device_start" in loaded
    assert not loaded & {"sqlalchemy", "numpy", "celery", "kombu", "alembic", "rich"}


def _command(*arguments: str) -> str:
    call = f"docmill({list(arguments)})"
    return f"from docmill.worker.cli import docmill\ntry:\n    {call}\nexcept SystemExit:\n    print('ended')"


def test_help_loads_neither_models_nor_the_store() -> None:
    loaded = loaded_after(_command("--help"))
    assert "docmill.worker.cli" in loaded
    assert not loaded & {"torch", "transformers", "sqlalchemy", "celery", "pydantic", "rich"}


@pytest.mark.long_on("sqlite")
@pytest.mark.parametrize("arguments", [["status", "1"], ["jobs"], ["pause", "1"]])
def test_looking_at_a_job_loads_neither_models_nor_the_queue_nor_migrations(
    database_url: str, arguments: list[str]
) -> None:
    database = Database(database_url, kinds=KINDS)
    read(database, request(), numbered(2))
    database.close()
    loaded = loaded_after(_command(*arguments), DOCMILL_DATABASE_URL=database_url)
    assert "docmill.storage.migrations" in loaded  # it came as far as the store
    assert not loaded & {"torch", "transformers", "numpy", "celery", "kombu", "redis", "alembic", "huggingface_hub"}


def test_storing_a_job_without_a_redis_loads_no_queue(tmp_path: Path) -> None:
    source = tmp_path / "texts.jsonl"
    source.write_text('{"id": "1", "text": "A text."}\n')
    command = _command("enqueue", "embed", str(source), "--model", "null")
    loaded = loaded_after(command, DOCMILL_HOME=str(tmp_path))
    assert "docmill.storage.ingest.ingest" in loaded  # it came as far as the store
    assert not loaded & {
        "torch",
        "transformers",
        "celery",
        "kombu",
        "redis",
        "docmill.features.near_duplicates.clusters",
    }


CLIENT = """
import json, sys
from importlib.machinery import PathFinder

blocked, source = json.loads(sys.argv[1]), sys.argv[2]


class Base(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Base

from click.testing import CliRunner
import docmill as api
from docmill.worker.cli import docmill
from docmill.worker.cli import all_commands


def run(*arguments):
    result = CliRunner().invoke(docmill, arguments, standalone_mode=False)
    return result.output, result.exception


for name in all_commands():
    output, error = run(name, "--help")
    assert error is None and "Usage:" in output, (name, error)
for arguments in (
    ["enqueue", "embed", source, "--model", "null"], ["status", "1"], ["jobs"], ["failures", "1"],
    ["results", "1"], ["cancel", "1"], ["doctor"], ["models", "list"], ["corpus", "list"], ["top", "--once"],
):
    assert run(*arguments)[1] is None, (arguments, run(*arguments))
with api.connect() as mill:
    assert mill.job(1).status().state == "cancelled"
for arguments in (
    ["run", "embed", source, "--model", "null"], ["worker"], ["search", source, "a query"], ["web"],
    ["metrics"], ["report", "1"], ["review", "judge", "1"], ["explain", "1", "1"], ["dedup", "find", source],
):
    print(arguments[0], run(*arguments)[1])
"""


def _outside_the_base() -> list[str]:
    """Return the modules of this environment that docmill without extras would not bring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base, todo = {"docmill", "packaging"}, [*map(Requirement, project["dependencies"])]
    while todo:
        requirement = todo.pop()
        base.add(canonicalize_name(requirement.name))
        for needed in map(Requirement, distribution(requirement.name).requires or ()):
            extras = ("", *requirement.extras)
            applies = needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras)
            if applies and canonicalize_name(needed.name) not in base:
                todo.append(needed)
    distributions = packages_distributions().items()
    return [module for module, names in distributions if base.isdisjoint(map(canonicalize_name, names))]


def test_a_client_needs_no_extra_and_other_commands_name_theirs(tmp_path: Path) -> None:
    source = tmp_path / "texts.jsonl"
    source.write_text('{"id": "1", "text": "A text."}\n')
    environment = os.environ | {"DOCMILL_HOME": str(tmp_path), "COLUMNS": "80"}
    completed = run_python(CLIENT, json.dumps(_outside_the_base()), str(source), env=environment)
    assert completed.returncode == 0, completed.stderr
    sentences = dict(line.split(" ", 1) for line in completed.stdout.splitlines())
    extras = {"run": "local", "worker": "local", "search": "local", "explain": "checks"}
    for name in ("run", "worker", "search", "web", "metrics", "report", "review", "explain", "dedup"):
        assert f"[{extras.get(name, name)}]" in sentences[name], sentences[name]
