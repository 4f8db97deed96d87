"""`docmill dedup` and `--leave-out near-duplicates`: what users see of near duplicates."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import docmill as api
from docmill.features.near_duplicates import methods
from docmill.features.near_duplicates.api import dedup
from docmill.storage.extras import Extra
from docmill.worker.api.documents import Read, make_table_by_row
from docmill.worker.errors import WorkerError
from docmill.worker.pipelines.file import parse
from tests.worker.conftest import Call
from tests.worker.pipelines.test_file import LEAST, PATH

Write = Callable[..., Path]


BASE = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
RECORDS = [
    {"id": "a", "text": BASE},
    {"id": "b", "text": "another \x1b[31mtext"},
    {"id": "c", "text": f"{BASE} fifteen"},
]


@pytest.fixture
def enqueued(call: Call, write_corpus: Write) -> Call:
    write_corpus(RECORDS)
    options = ("--model", "null", "--corpus", "letters", "--leave-out", "near-duplicates")
    result = call("enqueue", "translate", "corpus.jsonl", *options)
    assert "1 document is a near duplicate of an earlier one; --leave-out leaves it out." in result.err
    return call


def test_a_run_leaves_near_duplicates_out_and_says_so(enqueued: Call) -> None:
    status = enqueued("status", 1, "--json").json()
    assert (status["documents"], status["pending"]) == (3, 2)
    assert status["flags_by_step"]["translate"]["not_selected"] == 1
    assert "1 document not selected" in enqueued("status", 1).out


def test_the_row_of_a_near_duplicate_says_that_it_was_left_out_and_why(enqueued: Call, tmp_path: Path) -> None:
    reason = "a near duplicate of an earlier document"
    rows = [json.loads(line) for line in enqueued("results", 1, "--all", "--partial").out.splitlines()]
    assert [(row["outcome"], row["reason"]) for row in rows] == [*[("pending", None)] * 2, ("left out", reason)]
    enqueued("results", 1, "--partial", "--out", "out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines()[-1] == f"c,,left out: {reason}"
    with api.connect(store=tmp_path / "home") as mill:
        table = make_table_by_row(mill.database, 1, [Read("3", "c"), Read("4", "gone")], with_input=False)
    assert table["status"].to_pylist() == ["left out", "removed"]
    assert table["reason"].to_pylist() == [reason, None]


def test_clusters_are_printed_written_and_forgotten(enqueued: Call, tmp_path: Path) -> None:
    shown = enqueued("dedup", "show", "letters")
    assert "1 cluster with 2 of 3 documents: 1 repeats an earlier one." in shown.out
    assert "1 of 3 unique texts" in shown.out
    again = enqueued("dedup", "find", "letters", "--json").json()
    assert (again["corpus"], again["clusters"], again["repeats"], again["compared"]) == ("letters", 1, 1, 0)
    assert again["samples"][0]["others"] == [{"id": "c", "text": f"{BASE} fifteen"}]
    assert again["method"] == {"by": "text", "threshold": 0.8, "unit": "words", "size": 3, "seed": 1}
    rows = [json.loads(line) for line in enqueued("dedup", "show", "letters", "--out", "-").out.splitlines()]
    assert rows == [
        {"id": "a", "first": "a", "is_first": True, "documents": 2},
        {"id": "c", "first": "a", "is_first": False, "documents": 2},
    ]
    enqueued("dedup", "show", "letters", "--out", "out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "id,first,is_first,documents"
    stricter = enqueued("dedup", "find", "letters", "--threshold", "0.99", "--shingle", "words", "2")
    assert "No near duplicates among 3 documents." in stricter.out
    assert "As in the last search: Jaccard similarity of runs of 2 words" in enqueued("dedup", "find", "letters").err
    assert "of 0 documents" in enqueued("dedup", "forget", "letters").out
    assert "search it: docmill dedup find letters" in enqueued("dedup", "show", "letters", code=2).err


def test_a_step_of_a_pipeline_that_reads_documents_may_leave_near_duplicates_out() -> None:
    step = "[[step]]\nname = 'again'\ntask = 'summarize'\nleave-out = 'near-duplicates'\n"
    with pytest.raises(WorkerError, match="leave-out is about documents; write it in the step that reads them"):
        parse(LEAST + step, PATH)
    steps = parse(f"{LEAST}{step}input = 'document'\n", PATH).steps
    assert [step.leaves_out for step in steps] == [None, "near-duplicates"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("nothing",), "there is no corpus nothing"),
        (("letters", "--threshold", "1.5"), "a number above 0 and at most 1"),
        (("letters", "--shingle", "lines", "3"), "'words', 'characters'"),
        (("letters", "--embeddings", "--seed", "5"), "shingle and seed are for comparing words"),
        (("letters", "--embeddings"), "no job embeds the corpus letters"),
        (("letters", "--json", "--out", "-"), "both write to stdout"),
        (("letters", "--out", "missing/out.jsonl"), "there is no folder"),
    ],
)
def test_wrong_options_are_refused_with_advice(enqueued: Call, options: tuple[str, ...], message: str) -> None:
    assert message in " ".join(enqueued("dedup", "find", *options, code=2).err.split())


def test_without_the_library_the_command_that_installs_it_is_said_before_anything_is_stored(
    call: Call, write_corpus: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert importlib.util.find_spec("rensa") is not None
    missing = Extra("dedup", ("no_such_library",), "")
    monkeypatch.setattr(methods, "LIBRARY", missing)
    write_corpus(RECORDS)
    options = ("--model", "null", "--corpus", "letters")
    refused = call("enqueue", "translate", "corpus.jsonl", *options, "--leave-out", "near-duplicates", code=2)
    assert "[dedup]" in refused.err
    assert call("jobs", "--json").json() == []
    call("enqueue", "translate", "corpus.jsonl", *options)
    assert "[dedup]" in call("dedup", "find", "letters", code=2).err


def test_the_python_api_returns_the_counts_and_explains_errors(enqueued: Call, tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"threshold": 0.0},
        {"shingle": ("lines", 3)},
        {"embeddings": True, "seed": 1},
        {"job": 9},
    ]
    with api.connect(store=tmp_path / "home") as mill:
        counts = dedup(mill, "letters", shingle=("words", 1))
        assert (counts.documents, counts.clusters, counts.repeats) == (3, 1, 1)
        for options in wrong:
            with pytest.raises(api.Error):
                dedup(mill, "letters", **options)
