"""Commands print data on stdout and talk on stderr. They run in this process, without a device."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from docmill.storage.core.database import Database
from docmill.worker.jobs.results import WritingBar
from tests.storage.builders import embedded, finish, work
from tests.worker.conftest import Call
from tests.worker.harness import EXAMPLES

DESCRIPTIONS = str(EXAMPLES / "descriptions.jsonl")
MIXED = '{"id": 5.0, "text": "one"}\n' + "bad\n" * 7 + '{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n'


def test_a_source_is_summed_up_in_one_line(call: Call, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(MIXED)
    output = call("enqueue", "embed", "m.jsonl")
    message = (
        "10 records: 2 new documents, 1 superseded by a later record of the same id, 7 rejected. 2 texts to compute."
    )
    assert message in output.err
    assert " 10 records  0:00" in output.err  # the bar counts the same records
    [reading] = [line.split() for line in call("corpus", "show", "m.jsonl").out.splitlines() if " read " in line]
    assert reading[4:] == ["10", "2", "0", "0", "7"]
    assert "Dispatch deferred: DOCMILL_REDIS_URL is not set. The job is stored; `docmill worker` picks" in output.err
    assert output.out == "1\n"
    stderr = call("enqueue", "embed", "m.jsonl").err
    assert "0 texts to compute, beside those of before. `docmill failures` names the superseded records." in stderr
    assert "\nJob 1 was unfinished. It continues." in stderr


@pytest.mark.parametrize(("name", "raw"), [("e.jsonl", ""), ("h.csv", "id,text\n"), ("-", "\n")])
@pytest.mark.parametrize("how", [("enqueue", "embed"), ("run", "embed", "--dry-run")])
def test_a_source_without_records_is_reported(
    call: Call, tmp_path: Path, name: str, raw: str, how: tuple[str, ...]
) -> None:
    if name != "-":
        (tmp_path / name).write_text(raw)
    output = call(*how, name, stdin=raw.encode())
    assert f"{'Standard input' if name == '-' else tmp_path / name} has no records." in output.err
    assert json.loads(call(*how, name, "--json", stdin=raw.encode()).out)


def test_a_dry_run_shows_the_first_rejected_records_and_counts_as_the_run_does(call: Call, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(MIXED)
    output = call("run", "embed", "m.jsonl", "--model", "null", "--dry-run", code=4)  # as the run itself would end
    assert [line for line in range(1, 11) if f"rejected m.jsonl:{line}: not JSON" in output.err] == [2, 3, 4, 5, 6]
    assert "\nrejected 2 more records\n" in output.err
    assert "docmill failures" not in output.err  # there is no job that would list them
    assert output.out.startswith(
        "2 documents, 2 unique texts, 7 records rejected, 1 superseded by a later record of the same"
    )


def test_a_dash_is_standard_output_and_an_enqueue_that_waits_says_how_the_job_ended(
    call: Call, store: Database, tmp_path: Path
) -> None:
    call("enqueue", "embed", DESCRIPTIONS, "--limit", 3)
    finish(store, embedded)
    results = call("results", 1).out
    assert len(results.splitlines()) == 3
    assert call("results", 1, "--out", "-").out == results
    output = call("run", "embed", DESCRIPTIONS, "--limit", 3, "--out", "-")
    assert output.out == results
    assert "3 unchanged" in output.err
    output = call("enqueue", "embed", DESCRIPTIONS, "--limit", 3, "--wait")
    assert "Job 3 done: 3 documents, 3 unique texts: 3 done" in output.err
    assert output.out == "3\n"
    assert call("run", "embed", DESCRIPTIONS, "--out", "-", "--json", code=2).out == ""
    assert not (tmp_path / "-").exists()


def test_a_full_disk_and_a_file_of_another_user_are_reported(
    call: Call, store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("enqueue", "embed", DESCRIPTIONS, "--limit", 1)
    work(store, embedded)
    output = call("results", 1, "--partial", "--out", "/dev/full", code=2)
    assert output.err == "docmill: cannot write the output: No space left on device\n"

    def refuse(temporary: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(temporary), None, target.name)

    def fail(_: Path, __: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    for replace, error in (  # the first as in a folder such as /tmp
        (refuse, "out.jsonl: Operation not permitted"),
        (fail, "a file: Input/output error"),
    ):
        monkeypatch.setattr(Path, "replace", replace)
        output = call("results", 1, "--partial", "--out", "out.jsonl", code=2)
        assert output.err.endswith(f"docmill: cannot use {error}\n")


@pytest.mark.parametrize("options", [["--all", "--out", "all.jsonl"], ["--out", "out.csv"]])
def test_the_bar_of_an_export_ends_with_its_last_row(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    progress: list[tuple[int, int]] = []
    monkeypatch.setattr("docmill.worker.jobs.results.SHOWN_EVERY", 1)
    monkeypatch.setattr(WritingBar, "update", lambda _, completed, total, __: progress.append((completed, total)))
    (tmp_path / "m.jsonl").write_text(MIXED)
    call("enqueue", "embed", "m.jsonl")
    call("results", 1, "--partial", *options)
    assert progress == [(n, 10) for n in range(1, 11)]


def test_quiet_commands_say_nothing_unless_something_is_wrong(call: Call, tmp_path: Path) -> None:
    output = call("enqueue", "embed", DESCRIPTIONS, "--limit", 3, "--quiet")
    assert (output.out.strip(), output.err) == ("1", "")
    assert call("jobs", "-q").err == ""
    assert "there is no job 9" in call("status", 9, "--quiet", code=2).err
    assert "Reading" in call("enqueue", "embed", "-", keyboard=True, stdin=b'{"text": "x"}\n').err


def test_a_quiet_command_that_refuses_says_why(call: Call) -> None:
    call("enqueue", "embed", DESCRIPTIONS, "--limit", 3, "--corpus", "one", "--quiet")
    call("enqueue", "embed", DESCRIPTIONS, "--limit", 3, "--corpus", "one", "--model", "null", "--quiet")
    assert "is not finished" in call("results", 1, "-q", code=2).err
    assert "There is no index of 1" in call("index", "rm", 1, "-q", code=2).err
    stderr = call("corpus", "rm", "one", "-q", code=2).err
    assert "This removes the corpus one" in stderr
    assert "Give --yes to confirm" in stderr
    call("cancel", 1, "-q")
    call("cancel", 2, "-q")
    stderr = call("corpus", "rm", "one", "--document", "none", "--yes", "-q", code=1).err
    assert "1 document of those named is not in one: none" in stderr
    stderr = call("corpus", "rm", "one", "--document", "caf\udce9", "--yes", "-q", code=1).err
    assert "is not in one: caf\ufffd" in stderr, "of an argument that is not UTF-8"
    assert "Nothing was removed" in call("corpus", "rm", "one", "--where", "meta.name=x", "--yes", "-q", code=1).err
