"""A user's mistake gets one clear sentence, the right exit code and no traceback."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from docmill.worker.cli import all_commands, docmill
from docmill.worker.cli.options import JOB_OR_CORPUS, number, whole_number
from tests.worker.conftest import Call
from tests.worker.harness import DEADLINE_S, DOCMILL, EXAMPLES, Docmill

DESCRIPTIONS = EXAMPLES / "descriptions.jsonl"


def _commands() -> list[tuple[str, click.Command]]:
    context = click.Context(docmill)
    commands: list[tuple[str, click.Command]] = []
    for name in all_commands():
        command = docmill.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            inner = [(member, command.get_command(context, member)) for member in command.list_commands(context)]
            commands += [(f"{name} {member}", sub) for member, sub in inner if sub is not None]
        else:
            commands.append((name, command))
    return commands


@pytest.mark.parametrize(("name", "command"), _commands())
def test_every_command_has_help_with_an_example_and_explains_each_option(name: str, command: click.Command) -> None:
    assert command.help
    assert command.epilog is not None
    assert f"docmill {name}" in command.epilog
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.name}"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "embed", ""), "the source is empty"),
        (("run", "generate", DESCRIPTIONS, "--prompt", "{text}"), "give one with --model"),
        (("run", "embed", DESCRIPTIONS, "--model", "./no-such-model"), "no-such-model"),
        (("run", "generate", DESCRIPTIONS, "--model", "null", "--prompt", "@none"), "cannot read none"),
        (("run", "embed", DESCRIPTIONS, "--device", "tpu"), "--device tpu"),
        (("run", "embed", DESCRIPTIONS, "--out", "a", "--format", "openai-batch"), "`docmill batch`"),
        (
            ("run", "translate", DESCRIPTIONS, "--from", "auto", "--model", "fr=marian-ddtp", "--revision", "main"),
            "--revision is of one model",
        ),
        (("run", "embed", DESCRIPTIONS, "--out", "a" * 256), "File name too long"),
        (("run", "embed", DESCRIPTIONS, "--details"), "--details is for a file"),
        (("run", "embed", DESCRIPTIONS, "--dry-run", "--web"), "--dry-run makes no job for --web to show"),
        (("run", "embed", "nowhere.jsonl", "--model", "null", "--prompt", ""), "--prompt is empty"),
        (("run", "summarize", "nowhere.jsonl", "--model", "null", "--prefix", ""), "nowhere.jsonl"),
        (("doctor", "--invariants", "--sql", "--json"), "--sql and --json"),
        (("doctor", "--invariants", "--host", "here"), "--within and --host need --workers"),
        (("corpus", "show", "f\udcff"), "there is no corpus"),
        (("run", "sing", DESCRIPTIONS), "sing"),
        (("status",), "there are no jobs yet"),
        (("results", "77"), "no job 77"),
        (("results", "77", "--out", ""), "it is empty; name a file, or leave it out"),
    ],
)
def test_bad_usage_and_bad_input_exit_with_2(call: Call, arguments: tuple[Any, ...], says: str) -> None:
    output = call(*arguments, code=2)
    assert says in output.err
    assert output.out == ""


def test_a_server_that_cannot_be_reached_ends_with_3_and_its_password_is_kept(tmp_path: Path) -> None:
    docmill = Docmill(tmp_path, {"DOCMILL_REDIS_URL": "redis://:c4nary@127.0.0.1:1/0"})
    refused = docmill("run", "embed", DESCRIPTIONS, code=3)
    assert "cannot reach Redis" in refused.stderr
    assert "c4nary" not in refused.stderr + refused.stdout


def test_a_schema_that_was_never_made_names_the_command_that_makes_it(tmp_path: Path) -> None:
    fresh = Docmill(tmp_path, {"DOCMILL_DATABASE_URL": f"sqlite:///{tmp_path}/new/fresh.db"})
    stderr = fresh("jobs", code=3).stderr
    assert f"there is no file {tmp_path}/new/fresh.db; correct DOCMILL_DATABASE_URL, or make the file with" in stderr
    assert not (tmp_path / "new").exists()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "fresh.db").touch()
    assert "docmill db upgrade" in fresh("jobs", code=3).stderr
    fresh("db", "upgrade")
    assert "up to date" in fresh("db", "upgrade").stderr
    assert fresh.json("jobs") == []


def test_models_are_listed_and_checked(embedded: Docmill) -> None:
    names = {model["name"]: model for model in embedded.json("models", "list")}
    assert names["minilm"]["default_for"] == "embed"
    stdout = embedded("models", "check", "marian-ddtp").stdout
    assert "MarianMTModel" in stdout
    assert "translate" in stdout
    stdout = embedded("models", "check", "entities-ddtp").stdout
    assert "model      minilm with the adapter entities-ddtp" in stdout
    assert "suits      entities" in stdout
    stdout = embedded("models", "check", "minilm").stdout
    assert "suits      summarize, embed, classify with --labels" in stdout
    assert embedded.json("models", "check", "minilm")["with_options"] == {"classify": "labels"}


def test_a_part_of_a_model_is_not_listed_as_a_model(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("org/bge", "org/bge/1_Pooling"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text("{}")
    monkeypatch.setenv("DOCMILL_MODELS_DIR", str(tmp_path))
    assert [model["name"] for model in json.loads(call("models", "list", "--json").out)][-1] == "org/bge"


def test_doctor_finds_nothing_wrong_here(embedded: Docmill) -> None:
    findings = embedded.json("doctor")
    assert {finding["what"] for finding in findings} >= {"database", "redis", "models", "device", "disk"}
    assert all(finding["ok"] for finding in findings)


def test_results_go_to_a_pipe_and_its_reader_may_close_it(embedded: Docmill) -> None:
    piped = _shell(embedded, f"{DOCMILL} run embed {DESCRIPTIONS} --model null --limit 8 2>&1 >data | head -c 10")
    assert (piped.stdout, piped.returncode) == (b"reading   ", 0)  # the work goes on when nobody listens
    assert embedded.json("status", 1)["done"] == 8
    piped = _shell(embedded, f"{DOCMILL} results 1 | head -c 10")
    assert (len(piped.stdout), piped.stderr, piped.returncode) == (10, b"", 0)
    piped = _shell(embedded, f"{DOCMILL} results 1 --out /dev/stdout | wc -l")
    assert (piped.stdout.strip(), piped.returncode) == (b"8", 0)


def test_a_full_disk_under_stdout_is_reported_and_a_closed_pipe_is_no_error(embedded: Docmill) -> None:
    embedded.environment.pop("PYTHONUNBUFFERED", None)
    full = _shell(embedded, f"{DOCMILL} jobs --json >/dev/full")
    assert (full.stderr, full.returncode) == (b"docmill: cannot write the output: No space left on device\n", 2)
    closed = _shell(embedded, f"{DOCMILL} jobs --json | true")
    assert (closed.stderr, closed.returncode) == (b"", 0)


def test_a_full_disk_under_stderr_ends_no_run(embedded: Docmill) -> None:
    embedded.environment["DOCMILL_LOG_LEVEL"] = "debug"  # device processes write there, too
    run = f"{DOCMILL} run embed {DESCRIPTIONS} --model null --limit 8"
    assert _shell(embedded, f"{run} 2>/dev/full").returncode == 0
    assert embedded.json("status", 1)["done"] == 8


def test_a_terminal_that_goes_away_ends_no_run(embedded: Docmill) -> None:
    ours, theirs = pty.openpty()
    embedded.environment["TERM"], embedded.from_anew = "xterm", True  # a fork has asked for the terminal already
    with os.fdopen(theirs, "wb") as terminal:
        options = ("--model", "null", "--limit", 8)
        process = embedded.launch(["run", "embed", DESCRIPTIONS, *options], terminal, terminal)
    os.read(ours, 1)
    os.close(ours)  # each write fails from now on
    assert process.wait(DEADLINE_S) == 0


def test_closed_streams_are_empty_ones(embedded: Docmill) -> None:
    assert _shell(embedded, f"{DOCMILL} jobs >&- 2>&-").returncode == 0
    empty = _shell(embedded, f"{DOCMILL} enqueue embed - <&-")
    assert b"Standard input has no records." in empty.stderr


def _shell(docmill: Docmill, line: str) -> subprocess.CompletedProcess[bytes]:
    command = ["bash", "-o", "pipefail", "-c", line]
    return subprocess.run(command, cwd=docmill.folder, env=docmill.environment, capture_output=True)


def test_a_command_or_an_option_that_was_nearly_written_is_suggested(call: Call) -> None:
    assert "Did you mean search?" in call("serach", code=2).err
    assert "Did you mean translate?" in call("run", "tranlsate", DESCRIPTIONS, code=2).err
    assert "Did you mean '--limit'?" in call("run", "embed", DESCRIPTIONS, "--lmit", "3", code=2).err
    assert "Did you mean" not in call("sing", code=2).err
    assert "docmill run translate SOURCE" in call("translate", DESCRIPTIONS, code=2).err
    assert "Did you mean" not in call("run", "embed", DESCRIPTIONS, "--normalize", code=2).err


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (number(0, min_open=True), "inf"),
        (number(0, min_open=True), "nan"),
        (whole_number(1), "9" * 400),  # no float holds it
        (whole_number(1), "9" * 5_000),  # nor does Python read it
        (JOB_OR_CORPUS, "9" * 5_000),
    ],
    ids=["inf", "nan", "huge", "unreadable", "job"],
)
def test_a_number_of_an_option_is_finite_and_of_a_size_that_can_be_read(
    type_: click.ParamType[object], value: str
) -> None:
    with pytest.raises(click.BadParameter, match=f"'{value}' is not a"):
        type_.convert(value, None, None)
