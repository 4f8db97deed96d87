"""Commands print data on stdout and talk on stderr. They run in this process, without a device."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Outcome, Status
from docmill.storage.leases import shards
from docmill.storage.steps import jobs
from tests.kinds import KINDS
from tests.storage.builders import claim_next, embedded, work
from tests.worker.conftest import Call
from tests.worker.harness import EXAMPLES

DESCRIPTIONS = str(EXAMPLES / "descriptions.jsonl")
MIXED = '{"id": 5.0, "text": "one"}\n' + "bad\n" * 7 + '{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n'


@pytest.fixture
def store(tmp_path: Path, call: Call) -> Database:
    call("jobs")
    return Database(f"sqlite:///{tmp_path}/home/docmill.db", kinds=KINDS)


def test_what_a_source_held_is_said_in_one_line(call: Call, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(MIXED)
    said = call("enqueue", "embed", "m.jsonl")
    counted = (
        "10 records: 2 new documents, 1 superseded by a later record of the same id, 7 rejected. 2 texts to compute."
    )
    assert counted in said.err
    assert "Dispatch deferred: DOCMILL_REDIS_URL is not set. The job is stored; `docmill worker` picks" in said.err
    assert said.out == "1\n"
    again = call("enqueue", "embed", "m.jsonl").err
    assert "0 texts to compute, beside those of before. `docmill failures` names the superseded records." in again
    assert "\nJob 1 was unfinished and is carried on." in again


def test_a_deferred_dispatch_says_why_in_json_too(call: Call) -> None:
    assert "DOCMILL_REDIS_URL" in json.loads(call("enqueue", "embed", DESCRIPTIONS, "--json").out)["deferred"]


@pytest.mark.parametrize(("name", "raw"), [("e.jsonl", ""), ("h.csv", "id,text\n"), ("-", "\n")])
@pytest.mark.parametrize("how", [("enqueue", "embed"), ("run", "embed", "--dry-run")])
def test_a_source_without_records_is_said_to_be_one(
    call: Call, tmp_path: Path, name: str, raw: str, how: tuple[str, ...]
) -> None:
    if name != "-":
        (tmp_path / name).write_text(raw)
    said = call(*how, name, stdin=raw.encode())
    assert f"{'Standard input' if name == '-' else tmp_path / name} has no records." in said.err
    assert json.loads(call(*how, name, "--json", stdin=raw.encode()).out)


def test_who_is_to_type_the_source_is_told(call: Call) -> None:
    assert "Ctrl-D ends them" in call("enqueue", "embed", "-", keyboard=True).err
    assert "Ctrl-D" not in call("enqueue", "embed", "-").err


def test_a_dry_run_shows_the_first_rejected_records(call: Call, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text("bad\n" * 7 + '{"text": ""}\n')
    call("enqueue", "embed", "m.jsonl", "--model", "null")
    said = call("run", "embed", "m.jsonl", "--model", "null", "--dry-run", code=4)  # as the run itself would end
    assert [line for line in range(1, 9) if f"rejected m.jsonl:{line}: not JSON" in said.err] == [1, 2, 3, 4, 5]
    assert "more were rejected" in said.err
    assert "docmill failures" not in said.err  # there is no job that would list them
    assert "7 records rejected" in said.out


def test_what_a_folder_s_reading_left_out_is_said(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text("Whales sing.")
    (folder / "b.csv").write_text("n,m\n1,2\n")
    (folder / "c.png").touch()
    expected = (
        "2 files were left out: 1 .csv, 1 .png. "
        'b.csv: no record has a field "text"; it has "n", "m": name one with --text-field.'
    )
    assert expected in call("enqueue", "embed", folder, "--model", "null").err
    assert expected in call("run", "embed", folder, "--model", "null", "--dry-run").err
    (folder / "b.csv").unlink()
    (folder / "c.png").unlink()
    assert "left out" not in call("enqueue", "embed", folder, "--model", "null").err


def test_bytes_that_are_no_utf8_are_counted_where_they_are_read(call: Call, tmp_path: Path) -> None:
    lines = ['{"text": "caf\u00e9"}\n', '{"text": "th\u00e9"}\n', '{"text": "tea"}\n', '{"text": "a \\u0000"}\n']
    (tmp_path / "latin.jsonl").write_bytes("".join(lines).encode("latin-1"))
    said = call("enqueue", "embed", "latin.jsonl").err
    assert "4 records: 4 new documents" in said
    assert "In 3 of them bytes that are not in the encoding, or characters that cannot be stored, were" in said
    assert "first in latin.jsonl:1 " in said
    assert "name it, such as --encoding windows-1252" in said
    said = call("enqueue", "embed", "latin.jsonl", "--encoding", "latin-1", "--corpus", "named").err
    assert "In 1 of them" in said  # the NUL
    said = call("enqueue", "embed", "latin.jsonl", "--encoding", "utf-9", code=2).err
    assert 'no encoding is named "utf-9"' in said
    (tmp_path / "utf8.jsonl").write_text("".join(lines[:3]), encoding="utf-8")
    assert "UTF-8" not in call("enqueue", "embed", "utf8.jsonl").err


def test_an_enqueue_that_waits_says_what_came_of_the_job(call: Call, store: Database) -> None:
    call("enqueue", "embed", DESCRIPTIONS, "--limit", 3)
    work(store, embedded)
    jobs.finish(store)
    store.close()
    said = call("enqueue", "embed", DESCRIPTIONS, "--limit", 3, "--wait")
    assert "Job 2 done: 3 documents, 3 unique texts: 3 done" in said.err
    assert said.out == "2\n"


def test_results_that_were_removed_are_not_exported_as_none(call: Call, store: Database, tmp_path: Path) -> None:
    call("enqueue", "embed", DESCRIPTIONS, "--limit", 3)
    work(store, embedded)
    jobs.finish(store)
    store.close()
    call("results", 1, "--out", "r.jsonl")
    call("gc", "results", "--older-than", 0, "--yes")
    for options in (("--out", "r.jsonl"), ("--out", "parts", "--part-documents", 2), ()):
        said = call("results", 1, *options, code=2)
        assert "The results of job 1 were removed since; run its source again" in said.err
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 3
    assert not (tmp_path / "parts").exists()


def test_a_job_is_named_by_its_id_in_every_json(call: Call) -> None:
    call("enqueue", "embed", DESCRIPTIONS)
    assert json.loads(call("status", "--json").out)["id"] == 1
    for command in (("jobs",), ("status", 1), ("retry", 1), ("pause", 1), ("resume", 1), ("cancel", 1)):
        said = json.loads(call(*command, "--json").out)
        assert (said[0] if isinstance(said, list) else said)["id"] == 1


def test_results_of_a_cancelled_job_are_said_to_be_partial(call: Call, store: Database) -> None:
    call("enqueue", "embed", DESCRIPTIONS, "--limit", 100)
    claim = claim_next(store)
    shards.release(store, claim, embedded(claim)[:30])
    store.close()
    call("cancel", 1)
    said = call("results", 1)
    assert len(said.out.splitlines()) == 30
    assert "Job 1 was cancelled: 70 of its 100 texts have no result." in said.err


def test_a_dash_is_standard_output(call: Call, store: Database, tmp_path: Path) -> None:
    call("enqueue", "embed", DESCRIPTIONS, "--limit", 3)
    work(store, embedded)
    jobs.finish(store)
    store.close()
    results = call("results", 1).out
    assert len(results.splitlines()) == 3
    assert call("results", 1, "--out", "-").out == results
    said = call("run", "embed", DESCRIPTIONS, "--limit", 3, "--out", "-")
    assert said.out == results
    assert "3 unchanged" in said.err
    assert call("run", "embed", DESCRIPTIONS, "--out", "-", "--json", code=2).out == ""
    assert not (tmp_path / "-").exists()


@pytest.mark.parametrize("options", [("r.jsonl",), ("parts", "--part-documents", 700)])
def test_a_long_export_shows_how_far_it_is_and_a_short_one_nothing(
    call: Call, store: Database, tmp_path: Path, options: tuple[str | int, ...]
) -> None:
    for n, count in enumerate((1_100, 900), 1):
        lines = (json.dumps({"id": str(m), "text": f"{n} {m}"}) + "\n" for m in range(count))
        (tmp_path / f"{n}.jsonl").write_text("".join(lines))
        call("enqueue", "embed", f"{n}.jsonl")
    work(store, embedded)
    jobs.finish(store)
    store.close()
    said = call("results", 1, "--out", *options).err
    assert "1100/1100 documents" in said
    assert "Wrote 1,100 results" in said
    assert "documents" not in call("results", 2, "--out", "2", *options[1:]).err
    assert "1100/1100" not in call("results", 1).err


def test_results_come_in_the_format_that_is_asked_for(call: Call, store: Database, tmp_path: Path) -> None:
    call("enqueue", "embed", DESCRIPTIONS, "--limit", 3)
    claim = claim_next(store)
    vectors = [np.array([number, 0.5], dtype="<f4").tobytes() for number in range(3)]
    outcomes = [
        Outcome(content_id, Status.DONE, vector=vector)
        for (content_id, _), vector in zip(claim.texts, vectors, strict=True)
    ]
    shards.commit(store, claim, outcomes, None)
    jobs.finish(store)
    store.close()
    lines = [json.loads(line) for line in call("results", 1).out.splitlines()]
    assert "Wrote 3 results" in call("results", 1, "--out", tmp_path / "v.npy").err
    assert np.load(tmp_path / "v.npy").tolist() == [line["vector"] for line in lines]
    ids = (tmp_path / "v.ids.jsonl").read_text().splitlines()
    assert [json.loads(one)["id"] for one in ids] == [line["id"] for line in lines]
    call("results", 1, "--out", tmp_path / "v", "--format", "parquet")
    assert parquet.read_table(tmp_path / "v")["id"].to_pylist() == [line["id"] for line in lines]
    header, *rows = csv.reader(call("results", 1, "--format", "csv").out.splitlines())
    assert header[0] == "document"
    assert [row[0] for row in rows] == [line["id"] for line in lines]
    assert "name one with --out" in call("results", 1, "--format", "parquet", code=2).err


@pytest.mark.parametrize(
    "option",
    ["--model", "--device", "--out"],
)
def test_an_option_given_as_nothing_is_a_slip(call: Call, option: str) -> None:
    said = call("run", "embed", DESCRIPTIONS, option, "", code=2)
    assert option in said.err
    assert "name a file" in said.err if option == "--out" else "leave it out" in said.err


@pytest.mark.parametrize("option", ["--limit", "--max-new-tokens"])
def test_a_number_that_no_database_holds_is_a_slip(call: Call, option: str) -> None:
    assert "to 2,147,483,647" in call("enqueue", "summarize", DESCRIPTIONS, option, 10**20, code=2).err


@pytest.mark.parametrize("corpus", ["x" * 2_001, "\udcff"])
def test_a_name_that_no_index_holds_is_a_slip(call: Call, corpus: str) -> None:
    assert "at most 2,000 bytes of UTF-8" in call("enqueue", "embed", DESCRIPTIONS, "--corpus", corpus, code=2).err


def test_a_full_disk_is_said_in_words(call: Call, store: Database) -> None:
    call("enqueue", "embed", DESCRIPTIONS, "--limit", 1)
    work(store, embedded)
    store.close()
    said = call("results", 1, "--partial", "--out", "/dev/full", code=2)
    assert said.err == "docmill: cannot write the output: No space left on device\n"


def test_the_help_names_every_exit_code_and_kind_of_file(call: Call) -> None:
    assert "130 interrupted" in " ".join(call("--help").out.split())
    for command in ("run", "enqueue"):
        assert ".tsv" in call(command, "embed", "--help-all").out


def test_quiet_commands_say_nothing_unless_something_is_wrong(call: Call, tmp_path: Path) -> None:
    said = call("enqueue", "embed", DESCRIPTIONS, "--limit", 3, "--quiet")
    assert (said.out.strip(), said.err) == ("1", "")
    assert call("jobs", "-q").err == ""
    assert "there is no job 9" in call("status", 9, "--quiet", code=2).err
    assert "Reading" in call("enqueue", "embed", "-", keyboard=True, stdin=b'{"text": "x"}\n').err
