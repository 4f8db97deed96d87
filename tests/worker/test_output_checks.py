"""The flags of checks on the command line: an output with a loop says so in the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.worker.harness import Docmill

TEXT = "Ce paquet fournit une bibliothèque."


def test_a_translation_with_a_loop_carries_the_flag_through_the_store(
    embedded: Docmill, write_corpus: Callable[..., Path]
) -> None:
    write_corpus([{"id": "short", "text": TEXT}])
    task = ("--task", "translate", "--from", "fr", "--to", "en", "--model", "marian-ddtp", "--beams", 1)
    embedded("run", "corpus.jsonl", *task, "--out", "free.jsonl")
    said = embedded("run", "corpus.jsonl", *task, "--min-new-tokens", 100).stderr
    free, long = embedded.results(1)[0], embedded.results(2)[0]
    assert free["flags"] == []
    assert len(long["text"].split()) > 40
    assert {"repetition", "length_ratio"} <= {*long["flags"]}
    assert "1 of 1 outputs are flagged as doubtful" in said
