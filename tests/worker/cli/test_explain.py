"""`docmill explain`: a result on a terminal and as JSON, and what is wrong said in a sentence."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.worker.harness import Docmill

LONG = "word " * 700


def test_a_result_is_explained_from_its_document_to_its_device(
    embedded: Docmill, write_corpus: Callable[..., Path]
) -> None:
    write_corpus([{"id": "k", "text": LONG, "year": 1900}, {"id": "blank", "text": " "}])
    embedded("run", "corpus.jsonl", "--task", "summarize", "--model", "null")
    shown = embedded("explain", 1, "k").stdout
    for said in ("Document k", "year: 1900", "model       null", "characters 0 to", "none", "word word"):
        assert said in shown
    assert "more characters; --full shows all" in shown
    assert "--full" not in embedded("explain", 1, "k", "--full").stdout
    found = embedded.json("explain", 1, "k")
    assert (found["job"], found["document"]["text"], found["document"]["meta"]) == (1, LONG, {"year": 1900})
    assert found["windows"][0]["start"] == 0
    assert found["windows"][-1]["end"] == len(LONG)
    (step,) = found["steps"]
    assert step["outcome"]["output"] == {"text": embedded.results(1)[0]["text"]}
    assert step["outcome"]["runtime"]["precision"] == "none"
    assert step["shard"]["owner"]
    assert [flag["name"] for flag in found["flags"]] == ["reduced"]
    assert "The text is blank." in embedded("explain", 1, "blank").stdout
    assert "Did you mean blank?" in embedded("explain", 1, "blnk", code=2).stderr
    assert "the job has summarize" in embedded("explain", 1, "k", "--step", "other", code=2).stderr


def test_a_result_that_is_computed_again_is_the_same_or_says_what_differs(
    embedded: Docmill, write_corpus: Callable[..., Path]
) -> None:
    write_corpus([{"id": "k", "text": LONG}, {"id": "blank", "text": " "}])
    embedded("run", "corpus.jsonl", "--task", "summarize", "--model", "null")
    assert (
        "--device and --backend are for --recompute" in embedded("explain", 1, "k", "--device", "cpu", code=2).stderr
    )
    shown = embedded("explain", 1, "k", "--recompute").stdout
    assert "result      the same" in shown
    assert "round 2" in shown
    found = embedded.json("explain", 1, "k", "--recompute")["recomputed"]
    assert (found["same"], found["differs_in"], found["output"]) == (
        True,
        [],
        {"text": embedded.results(1)[0]["text"]},
    )
    assert [one["round"] for one in found["windows"]] == [1] * (len(found["windows"]) - 1) + [2]
    with closing(sqlite3.connect(embedded.folder / "home" / "docmill.db")) as store, store:
        store.execute("UPDATE outcome SET text = 'word other word' WHERE text IS NOT NULL")
        store.execute("UPDATE runtime SET precision = 'int8'")
    shown = embedded("explain", 1, "k", "--recompute", code=1).stdout
    for said in ("another output: ", "[-other-]", "precision   int8 then, none now", "probably what differs"):
        assert said in shown
    assert embedded.json("explain", 1, "k", "--recompute", code=1)["recomputed"]["same"] is False
