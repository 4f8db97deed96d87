"""`docmill explain`: a result on a terminal and as JSON, and what is wrong said in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import docmill
from docmill.features.explaining.api import explain
from tests.worker.harness import Docmill

LONG = "word " * 700


def test_a_result_is_explained_from_its_document_to_its_device(
    embedded: Docmill, write_corpus: Callable[..., Path]
) -> None:
    write_corpus([{"id": "k", "text": LONG, "year": 1900}, {"id": "blank", "text": " "}])
    embedded("run", "summarize", "corpus.jsonl", "--model", "null")
    shown = embedded("explain", 1, "k").stdout
    for part in ("Document k", "year: 1900", "model       null", "characters 0 to", "none", "word word"):
        assert part in shown
    assert "more characters; --full shows all" in shown
    assert "--full" not in embedded("explain", 1, "k", "--full").stdout
    explanation = embedded.json("explain", 1, "k")
    with docmill.connect(store=embedded.folder / "home", device="cpu") as mill:
        assert json.loads(json.dumps(explain(mill.job(1), "k"))) == explanation
        with pytest.raises(docmill.Error, match="has no document blnk"):
            explain(mill.job(1), "blnk")
    document = explanation["document"]
    assert (explanation["job"], document["text"], document["meta"]) == (1, LONG, {"year": 1900})
    assert explanation["windows"][0]["start"] == 0
    assert explanation["windows"][-1]["end"] == len(LONG)
    (step,) = explanation["steps"]
    assert step["outcome"]["output"] == {"text": embedded.results(1)[0]["text"]}
    assert step["outcome"]["runtime"]["precision"] == "none"
    assert [flag["name"] for flag in explanation["flags"]] == ["reduced"]
    assert "The text is blank." in embedded("explain", 1, "blank").stdout
    assert "has no document blnk" in embedded("explain", 1, "blnk", code=2).stderr
    assert "the job has summarize" in embedded("explain", 1, "k", "--step", "other", code=2).stderr
