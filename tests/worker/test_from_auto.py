"""`--from auto` on the command line: one file of several languages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.worker.harness import EXAMPLES, Docmill

SPANISH = (
    "Este paquete contiene todos los archivos necesarios para permitir árabe en el corrector ortográfico aspell."
)
GERMAN = "Dieses Paket enthält die Dateien, die zur Laufzeit der übrigen Programme benötigt werden."
AUTO = ("--task", "translate", "--from", "auto")


def _first(name: str) -> str:
    with (EXAMPLES / name).open() as lines:
        return str(json.loads(next(lines))["text"])


def _records() -> list[dict[str, str]]:
    texts = {"fr": _first("french.jsonl"), "es": SPANISH, "en": _first("descriptions.jsonl")}
    return [{"id": language, "text": text} for language, text in texts.items()]


def test_a_file_of_several_languages_is_translated_in_one_run(
    embedded: Docmill, write_corpus: Callable[..., Path]
) -> None:
    records = _records()
    write_corpus(records)
    forecast = embedded.json("run", "corpus.jsonl", *AUTO, "--dry-run")
    assert (forecast["documents"], forecast["spec"]["params"]["source_lang"]) == (3, "auto")
    embedded("run", "corpus.jsonl", *AUTO, "--out", "auto.jsonl")
    french, spanish, english = embedded.results(1)
    assert ("language:fr" in french["flags"], "language:es" in spanish["flags"]) == (True, True)
    assert french["tokens_out"] > 0
    assert "Arabic" in spanish["text"] or "package" in spanish["text"]
    assert english["text"] == records[2]["text"]
    assert english["flags"] == ["language:en", "already_in_target"]
    assert english["tokens_in"] == english["tokens_out"] == 0
    assert "Nothing to compute" in embedded("run", "corpus.jsonl", *AUTO, "--to", "en").stderr


def test_a_text_in_another_language_fails_with_a_sentence(
    embedded: Docmill, write_corpus: Callable[..., Path]
) -> None:
    write_corpus([*_records(), {"id": "de", "text": GERMAN}])
    embedded("run", "corpus.jsonl", *AUTO, code=1)
    assert "It is German, and marian-ddtp translates from Spanish or French." in embedded("failures", 1).stdout
    assert len(embedded.results(1)) == 3


def test_a_pipelines_step_takes_it_too(embedded: Docmill, write_corpus: Callable[..., Path]) -> None:
    write_corpus(_records())
    (embedded.folder / "p.toml").write_text(
        'name = "any"\n[corpus]\nsource = "corpus.jsonl"\n[[step]]\nname = "english"\ntask = "translate"\n'
        'from = "auto"\n[[step]]\nname = "short"\ntask = "summarize"\n[output]\nfile = "out.jsonl"\n'
    )
    embedded("pipeline", "run", "p.toml")
    rows = [json.loads(line) for line in (embedded.folder / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["fr", "es", "en"]


def test_it_needs_a_target_where_the_model_names_none(embedded: Docmill, write_corpus: Callable[..., Path]) -> None:
    write_corpus(_records())
    refused = embedded("run", "corpus.jsonl", *AUTO, "--model", "null", code=2)
    assert "--from auto needs --to" in refused.stderr


def test_each_language_may_have_a_model_of_its_own(embedded: Docmill, write_corpus: Callable[..., Path]) -> None:
    write_corpus(_records())
    (embedded.folder / "p.toml").write_text(
        'name = "any"\n[corpus]\nsource = "corpus.jsonl"\n[[step]]\nname = "english"\ntask = "translate"\n'
        'from = "auto"\nmodel = { fr = "marian-ddtp", es = "marian-ddtp" }\n'
    )
    by_language = (*AUTO, "--model", "es=marian-ddtp,fr=marian-ddtp")
    embedded("run", "corpus.jsonl", *by_language)
    embedded("run", "corpus.jsonl", *AUTO)
    several, one = embedded.results(1), embedded.results(2)
    assert [row["text"] for row in several] == [row["text"] for row in one]
    assert "es=marian-ddtp,fr=marian-ddtp" in embedded("status", 1).stdout
    run = embedded("pipeline", "run", "p.toml")
    assert "0 texts to compute" in run.stderr


def test_a_model_of_one_language_is_not_asked_for_another(
    embedded: Docmill, write_corpus: Callable[..., Path]
) -> None:
    write_corpus(_records())
    refused = embedded("run", "corpus.jsonl", *AUTO, "--model", "de=marian-ddtp", code=2)
    assert "--from de: marian-ddtp translates from French or Spanish into English." in refused.stderr
    refused = embedded("run", "corpus.jsonl", *AUTO, "--model", "fr=marian-ddtp", "--revision", "main", code=2)
    assert "--revision is of one model" in refused.stderr
