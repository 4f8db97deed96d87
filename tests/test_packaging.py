"""Packages built as by `make dist` are complete, and the wheel works alone."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tarfile
import venv
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

from docs.outputs import fences, programs
from tests.worker.harness import PACKAGES, ROOT, Docmill, run_python
from tests.worker.test_own_packages import OURS, THEIRS, run_users_program

LARGEST_WHEEL_BYTES = 2_000_000
LARGEST_SDIST_BYTES = 5_000_000
MOST_BYTES_OF_A_CLIENT = 250_000_000
PROGRAM = """\
import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_type

import docmill
from docmill.features.explaining.api import explain
from docmill.features.near_duplicates.api import dedup
from docmill.features.reports.api import report

table = docmill.run(["A text."], "translate", from_="fr", to="en", beams=4)
docmill.run({"x": 1}.keys(), "classify", labels=["a", "b"], store="folder", progress=False)
hits = docmill.search("notes", "a query", top=3, passages=False)
assert_type([(hit.id, hit.score) for hit in hits], list[tuple[str, float]])
with docmill.connect("postgresql://db/docmill", "redis://queue") as mill:
    job = mill.enqueue([{"id": "1", "text": "A text."}], "embed", priority=5)
    assert_type(job, docmill.Job)
    assert_type(job.id, int)
    assert_type(job.wait(timeout=3.0), docmill.Status)
    assert_type(job.status().waiting_for, str | None)
    job.wait()
    for result in job.results(flagged=["repetition", "confidence<0.4"], with_input=True):
        assert_type(result, dict[str, Any])
    assert_type(job.results(unflagged=True, step="english", partial=True), Iterator[dict[str, Any]])
    assert_type([failure["reason"] for failure in job.failures()], list[Any])
    print(job.to_arrow(step="english").num_rows, job.to_pandas(partial=True).columns)
    assert_type(job.retry("transient"), int)
    assert_type([job.cancel(), job.pause(), job.resume(), job.priority(3)], list[bool])
    report(job, Path("report.html"), with_text=False)
    assert_type([status.state for status in mill.jobs(limit=5)], list[str])
    assert_type(explain(mill.job(7), "doc-1"), dict[str, Any])
    assert_type(mill.search("notes", "a query", top=3, exact=True)[0].meta.get("author"), Any | None)
    assert_type(dedup(mill, "notes", shingle=("words", 3)).repeats, int)
    mill.run(iter(["A text."]), "embed", progress=False)
    assert_type(mill.pipelines.run("nightly.toml"), docmill.Job)
    assert_type(mill.pipelines.add(Path("nightly.toml")), str)
    assert_type(mill.pipelines.list(), list[dict[str, Any]])
    assert_type(mill.pipelines.history("nightly", limit=3), list[dict[str, Any]])


async def at_once() -> None:
    with docmill.connect() as mill:
        print((await mill.run_async(["A text."], "embed")).num_rows)
    await docmill.run_async(["A text."], "summarize", length="short", with_input=True)


async def later(number: int) -> docmill.Status:
    with docmill.connect() as mill:
        first, second = await asyncio.gather(*(mill.job(job_id).wait_async(60.0) for job_id in (number, number + 1)))
        return first if second.ended else second


try:
    assert_type(asyncio.run(later(3)), docmill.Status)
except docmill.TimedOut as late:
    print(late)
except (docmill.Unreachable, docmill.Error) as error:
    raise SystemExit(str(error)) from error
"""
WRONG = {
    'docmill.run(["A text."], "embed", windw_tokens=9)': "windw_tokens",
    'docmill.run(["A text."], "embed", window_tokens="9")': '"window_tokens"',
    'docmill.run(3, "embed")': '"int"',
    'docmill.run(["A text."], "sumarize")': "Literal['sumarize']",
    'docmill.run(["A text."], "embed", with_input=1)': '"with_input"',
    'docmill.search("notes", "a query", tpo=3)': "tpo",
    "docmill.connect().job(3).results().text": '"text"',
    'docmill.connect().job("3")': '"str"',
    'docmill.connect().job(3).wait("60")': '"str"',
    "docmill.connect().job(3).results(flagged=3)": '"flagged"',
    'docmill.connect().job(3).to_arrow(stp="english")': "stp",
    'docmill.connect().job(3).retry("all")': "Literal['all']",
    'docmill.connect().enqueue(["A text."], "embed", priority="high")': '"priority"',
    'docmill.connect().search("notes", ["a query"])': '"list[str]"',
    "docmill.connect().pipelines.run(3)": '"int"',
    "asyncio.run(docmill.connect().job(3).wait())": '"JobStatus"',
    "docmill.Strange": "Strange",
}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def unpacked(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as pip would unpack it, with its command beside it."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(_wheel(dist)) as wheel:
        wheel.extractall(folder)
    scripts = ConfigParser()
    scripts.read(folder / f"docmill-{_version(dist)}.dist-info" / "entry_points.txt")
    module, function = scripts["console_scripts"]["docmill"].split(":")
    command = folder / "bin" / "docmill"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n")
    command.chmod(0o755)
    return folder


@pytest.fixture
def installed(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docmill:
    """docmill of the wheel, beside this environment's other packages, in an empty folder."""
    monkeypatch.setattr("tests.worker.harness.DOCMILL", str(unpacked / "bin" / "docmill"))
    return Docmill(tmp_path, {"PYTHONPATH": str(unpacked)})


def _wheel(dist: Path) -> Path:
    [wheel] = dist.glob("*.whl")
    return wheel


def _version(dist: Path) -> str:
    return _wheel(dist).name.split("-")[1]


def _tree(*folders: str) -> set[str]:
    """Return the project's files in these folders, without those that .gitignore names, as for the build."""
    ignored = "--exclude-per-directory=.gitignore"
    command = ["git", "ls-files", "--cached", "--others", ignored, "--", *folders]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no clone")
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


@pytest.mark.long
def test_the_wheel_holds_one_package_and_nothing_else(dist: Path) -> None:
    with zipfile.ZipFile(_wheel(dist)) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())
    assert "docmill/storage/migrations/script.py.mako" in names
    assert any(name.startswith("docmill/storage/migrations/versions/0100_") for name in names)
    own = {name for name in _tree("docmill") if not (ROOT / name).is_symlink()}
    assert names == own | {f"docmill/{name}" for name in _tree(*PACKAGES)}
    assert _wheel(dist).stat().st_size < LARGEST_WHEEL_BYTES


def test_a_type_checker_knows_the_python_api_of_an_installed_docmill(dist: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    with zipfile.ZipFile(_wheel(dist)) as wheel:
        wheel.extractall(site)
    lines = PROGRAM.splitlines()
    (tmp_path / "program.py").write_text("\n".join([*lines, *WRONG]))
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(tmp_path / "cache")]
    checked = subprocess.run(
        [*command, "--python-executable", str(python), "program.py"], cwd=tmp_path, capture_output=True, text=True
    )
    errors = [line for line in checked.stdout.splitlines() if ": error: " in line]
    error_at = {int(line.split(":")[1]): line for line in errors}
    assert {*error_at} == {*range(len(lines) + 1, len(lines) + 1 + len(WRONG))}, checked.stdout + checked.stderr
    for number, words in enumerate(WRONG.values(), len(lines) + 1):
        assert words in error_at[number]
    command = [sys.executable, "-m", "basedpyright", "--level", "error", "--pythonpath", str(python)]
    checked = subprocess.run([*command, "--outputjson", "program.py"], cwd=tmp_path, capture_output=True, text=True)
    marked = {error["range"]["start"]["line"] for error in json.loads(checked.stdout)["generalDiagnostics"]}
    assert marked == {*range(len(lines), len(lines) + len(WRONG))}, checked.stdout


def test_the_source_distribution_is_the_package_and_what_a_build_reads(dist: Path) -> None:
    with tarfile.open(dist / f"docmill-{_version(dist)}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(_wheel(dist)) as wheel:
        package = {name for name in wheel.namelist() if name.startswith("docmill/")}
    assert names == package | {"PKG-INFO", "pyproject.toml", "README.md", "LICENSE", ".gitignore", "hatch_build.py"}
    assert (dist / f"docmill-{_version(dist)}.tar.gz").stat().st_size < LARGEST_SDIST_BYTES


def test_the_wheel_alone_answers_and_does_a_job(installed: Docmill, unpacked: Path, dist: Path) -> None:
    assert "enqueue" in installed("--help").stdout
    assert installed("--version").stdout.strip().endswith(f"version {_version(dist)}")
    lines = "".join(json.dumps({"id": i, "text": f"Text {i}."}) + "\n" for i in range(3))
    (installed.folder / "corpus.jsonl").write_text(lines)
    installed("run", "embed", "corpus.jsonl", "--model", "null", "--out", "out.jsonl")
    assert len((installed.folder / "out.jsonl").read_text().splitlines()) == 3
    where = "import docmill.worker, docmill.storage; print(docmill.worker.__file__, docmill.storage.__file__)"
    paths = run_python(where, cwd=installed.folder, env=installed.environment, check=True).stdout.split()
    assert all(path.startswith(str(unpacked)) for path in paths)


def test_a_users_own_modules_and_the_wheels_work_in_one_process(installed: Docmill) -> None:
    run_users_program(installed.folder, (THEIRS, OURS), installed.environment)


@pytest.mark.wheel
@pytest.mark.timeout(1200)  # it downloads torch
def test_the_page_about_python_runs_in_an_empty_environment_with_what_it_says_to_install(
    dist: Path, tmp_path: Path
) -> None:
    page = ROOT / "docs" / "python.md"
    [arguments] = [fence.text.partition("pip install ")[2] for fence in fences(page) if "pip install" in fence.text]
    packages = [name.replace("docmill", str(_wheel(dist))) for name in shlex.split(arguments)]
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-compile", *packages], check=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "page.py").write_text("\n".join(programs(page)))
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "DOCMILL_DEVICE": "cpu"}
    completed = subprocess.run(
        [python, "-I", "page.py"], cwd=tmp_path / "empty", env=environment, capture_output=True, text=True
    )
    assert completed.returncode == 0, completed.stderr
    assert len(completed.stdout.splitlines()) == 4  # three hits and a job


@pytest.mark.wheel
@pytest.mark.timeout(600)  # it downloads packages
def test_the_wheel_without_extras_is_a_client_of_a_fleet_without_torch(
    dist: Path, tmp_path: Path, database_url: str, redis_url: str
) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    folder = tmp_path / "venv" / "bin"
    install: list[str | Path] = [folder / "python", "-m", "pip", "install", "--quiet", "--no-compile", _wheel(dist)]
    subprocess.run(install, check=True)
    bare = sum(file.stat().st_size for file in (tmp_path / "venv").rglob("*") if file.is_file())
    assert bare < MOST_BYTES_OF_A_CLIENT
    fleet = {"DOCMILL_DATABASE_URL": database_url, "DOCMILL_REDIS_URL": redis_url}
    (tmp_path / "notes.jsonl").write_text('{"id": "1", "text": "A note."}\n')

    def client(*command: str) -> subprocess.CompletedProcess[str]:
        environment = {"HOME": str(tmp_path), "PATH": str(folder), **fleet}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    program = "import docmill, importlib.util as u; print(docmill.__version__, u.find_spec('torch'))"
    assert client("python", "-c", program).stdout == f"{_version(dist)} None\n"
    assert client("docmill", "db", "upgrade").returncode == 0
    with Docmill(tmp_path, fleet).worker():
        completed = client("docmill", "enqueue", "embed", "notes.jsonl", "--model", "null", "--wait")
        assert completed.returncode == 0, completed.stderr
    assert '"state": "done"' in client("docmill", "status", "1", "--json").stdout
    assert json.loads(client("docmill", "results", "1").stdout)["id"] == "1"
    refused = client("docmill", "run", "embed", "notes.jsonl", "--model", "null")
    assert refused.returncode == 2
    assert "needs the models' libraries" in refused.stderr
    assert "docmill[local]" in refused.stderr
