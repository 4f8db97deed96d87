"""Metadata in a prompt, on the command line and in a pipeline."""

from __future__ import annotations

import json
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.worker.conftest import Call
from tests.worker.harness import Docmill

NEWS = [
    {"id": "a", "text": "It rained.", "section": "Weather", "words": 2},
    {"id": "b", "text": "It rained.", "section": "Sports", "words": 2},
    {"id": "c", "text": "It rained.", "section": "Weather", "words": 2},
    {"id": "d", "text": "  ", "section": "Weather", "words": 0},
]
TELL = ("--model", "null", "--prompt", "In {meta.section}, {meta.words} words: {text}")


def test_each_document_is_asked_about_with_its_metadata(embedded: Docmill, write_corpus: Callable[..., Path]) -> None:
    write_corpus(NEWS)
    forecast = embedded.json("run", "generate", "corpus.jsonl", *TELL, "--dry-run")
    assert (forecast["documents"], forecast["texts"]) == (4, 3)
    embedded("run", "generate", "corpus.jsonl", *TELL)
    status = embedded.json("status", 1)
    assert (status["done"], status["skipped"], status["documents"]) == (2, 1, 4)
    assert [row["id"] for row in embedded.results(1)] == ["a", "b", "c"]
    assert "Nothing to compute" in embedded("run", "generate", "corpus.jsonl", *TELL).stderr
    changed = [NEWS[0] | {"section": "Climate"}, *NEWS[1:]]
    write_corpus(changed)
    assert "1 text to compute" in embedded("run", "generate", "corpus.jsonl", *TELL).stderr


def test_a_later_step_puts_the_metadata_around_what_an_earlier_one_wrote(
    embedded: Docmill, write_corpus: Callable[..., Path]
) -> None:
    write_corpus(NEWS)
    (embedded.folder / "p.toml").write_text(
        'name = "told"\n[corpus]\nsource = "corpus.jsonl"\n[[step]]\nname = "short"\ntask = "summarize"\n'
        'model = "null"\n[[step]]\nname = "line"\ntask = "generate"\nmodel = "null"\n'
        "prompt = '{meta.section}, {meta.words} words: {text}'\n[output]\nfile = 'out.jsonl'\n"
    )
    embedded("pipeline", "add", "p.toml")
    embedded("pipeline", "run", "p.toml")
    rows = [json.loads(line) for line in (embedded.folder / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert all({"short", "line"} == set(row["steps"]) for row in rows)
    with sqlite3.connect(embedded.folder / "home" / "docmill.db") as store:
        query = "SELECT text FROM prompt JOIN content ON content.id = prompt.content_id ORDER BY document_id"
        prompts = [text for (text,) in store.execute(query)]
    assert prompts[:1] == [f"{NEWS[0]['section']}, {NEWS[0]['words']} words: {rows[0]['steps']['short']['text']}"]
    write_corpus([NEWS[0] | {"section": "Climate"}, *NEWS[1:]])
    embedded("pipeline", "run", "p.toml")
    short, line = embedded.json("status", 2)["steps"]
    assert short["prior"] == short["done"] + short["skipped"]
    assert line["done"] - line["prior"] == 1


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_field_that_no_record_has_is_refused_before_anything_is_stored(
    call: Call, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"news.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, NEWS)))
    elif suffix == "csv":
        path.write_text("id,text,section,words\na,It rained.,Weather,2\n")
    else:
        pq.write_table(pa.Table.from_pylist(NEWS), path)
    refused = call("enqueue", "generate", path.name, *TELL[:-1], "{meta.titel}: {text}", code=2)
    assert (
        'none of the first records has a field "titel" for the prompt or question; there is "section", "words"'
        in refused.err
    )
    assert call("jobs", "--json").json() == []


def test_texts_without_metadata_are_refused_for_a_prompt_that_wants_some(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text("It rained.")
    with zipfile.ZipFile(tmp_path / "notes.zip", "w") as archive:
        archive.writestr("a.txt", "It rained.")
    for source in ("notes", "notes/a.txt", "notes/*.txt"):
        assert "has texts alone and no metadata" in call("enqueue", "generate", source, *TELL, code=2).err
    assert "reads no archives; unpack it into a folder" in call("enqueue", "generate", "notes.zip", *TELL, code=2).err
