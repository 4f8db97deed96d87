"""`--from auto` on the command line: one file of several languages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worker.conftest import Call
from tests.worker.harness import EXAMPLES, Docmill

SPANISH = (
    "Este paquete contiene todos los archivos necesarios para permitir árabe en el corrector ortográfico aspell."
)
GERMAN = "Dieses Paket enthält die Dateien, die zur Laufzeit der übrigen Programme benötigt werden."
AUTO = ("--from", "auto")


def _first(name: str) -> str:
    with (EXAMPLES / name).open() as lines:
        return str(json.loads(next(lines))["text"])


def _records() -> list[dict[str, str]]:
    texts = {"fr": _first("french.jsonl"), "es": SPANISH, "en": _first("descriptions.jsonl")}
    return [{"id": language, "text": text} for language, text in texts.items()]


def test_a_file_of_several_languages_is_translated_in_one_run_and_another_language_fails(
    embedded: Docmill, write_corpus: Callable[..., Path]
) -> None:
    records = [*_records(), {"id": "de", "text": GERMAN}]
    write_corpus(records)
    embedded("run", "translate", "corpus.jsonl", *AUTO, "--out", "auto.jsonl", code=1)
    french, spanish, english = embedded.results(1)
    assert ("language:fr" in french["flags"], "language:es" in spanish["flags"]) == (True, True)
    assert french["tokens_out"] > 0
    assert "Arabic" in spanish["text"] or "package" in spanish["text"]
    assert english["text"] == records[2]["text"]
    assert english["flags"] == ["language:en", "already_in_target"]
    assert english["tokens_in"] == english["tokens_out"] == 0
    assert "It is German, and marian-ddtp translates from Spanish or French." in embedded("failures", 1).stdout


@pytest.mark.long
def test_a_pipelines_step_takes_it_too(embedded: Docmill, write_corpus: Callable[..., Path]) -> None:
    write_corpus(_records())
    (embedded.folder / "p.toml").write_text(
        'name = "any"\n[corpus]\nsource = "corpus.jsonl"\n[[step]]\nname = "english"\ntask = "translate"\n'
        'from = "auto"\n[[step]]\nname = "short"\ntask = "summarize"\n[output]\nfile = "out.jsonl"\n'
    )
    embedded("pipeline", "run", "p.toml")
    rows = [json.loads(line) for line in (embedded.folder / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["fr", "es", "en"]


@pytest.mark.long
def test_each_language_may_have_a_model_of_its_own(embedded: Docmill, write_corpus: Callable[..., Path]) -> None:
    write_corpus(_records())
    (embedded.folder / "p.toml").write_text(
        'name = "any"\n[corpus]\nsource = "corpus.jsonl"\n[[step]]\nname = "english"\ntask = "translate"\n'
        'from = "auto"\nmodel = { fr = "marian-ddtp", es = "marian-ddtp" }\n'
    )
    by_language = (*AUTO, "--model", "es=marian-ddtp,fr=marian-ddtp")
    embedded("run", "corpus.jsonl", *by_language)
    embedded("run", "translate", "corpus.jsonl", *AUTO)
    several, one = embedded.results(1), embedded.results(2)
    assert [row["text"] for row in several] == [row["text"] for row in one]
    assert "es=marian-ddtp,fr=marian-ddtp" in embedded("status", 1).stdout
    run = embedded("pipeline", "run", "p.toml")
    assert "0 texts to compute" in run.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--model", "null"), "--from auto needs --to"),
        (("--model", "de=marian-ddtp"), "--from de: marian-ddtp translates from French or Spanish into English."),
        (("--model", "fr=marian-ddtp", "--revision", "main"), "--revision is of one model"),
    ],
)
def test_what_a_model_cannot_do_is_refused_before_anything_is_read(
    call: Call, write_corpus: Callable[..., Path], options: tuple[str, ...], says: str
) -> None:
    assert says in call("enqueue", "translate", write_corpus(_records()), *AUTO, *options, code=2).err
