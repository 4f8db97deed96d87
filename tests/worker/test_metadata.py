"""Metadata in a prompt, on the command line and in a pipeline."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.worker.conftest import Call

NEWS = [
    {"id": "a", "text": "It rained.", "section": "Weather", "words": 2},
    {"id": "b", "text": "It rained.", "section": "Sports", "words": 2},
    {"id": "c", "text": "It rained.", "section": "Weather", "words": 2},
    {"id": "d", "text": "  ", "section": "Weather", "words": 0},
]
TELL = ("--model", "null", "--prompt", "In {meta.section}, {meta.words} words: {text}")


def test_a_field_that_no_record_has_is_refused_before_anything_is_stored(
    call: Call, write_corpus: Callable[..., Path]
) -> None:
    refused = call("enqueue", "generate", write_corpus(NEWS), *TELL[:-1], "{meta.titel}: {text}", code=2)
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
