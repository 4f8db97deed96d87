"""`docmill review`: outputs are shown and judged, the review goes on, and files come back."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from docmill.features.reviewing.population import read_step
from docmill.storage.core.database import Database
from docmill.storage.steps import fitted_risks
from docmill.storage.steps.risk import FittedRisk, RiskFeature, RiskModel
from tests.kinds import KINDS
from tests.worker.cli.test_results import read_cells
from tests.worker.harness import Docmill


def test_a_sample_is_judged_by_lines_and_by_a_file(embedded: Docmill, write_corpus: Callable[..., Path]) -> None:
    write_corpus([{"id": f"k{n}", "text": f"word {n} \x1b[31m"} for n in range(8)])
    embedded("run", "summarize", "corpus.jsonl", "--model", "null")
    wrong = embedded("review", "judge", 1, "--size", 6, stdin=b"b\nu\ng\nx\ng\n", code=2)
    assert wrong.stderr.count("1 of 6: document k") == 2
    assert "line 4: 'x' is not a verdict" in wrong.stderr
    assert "3 of 6: document" not in wrong.stderr
    first = embedded("review", "judge", 1, "--size", 6, stdin=b"b the number\ns\nq\n")
    assert "5 outputs to judge." in first.stderr
    assert "3 of 5: document" in first.stderr
    assert "4 of 5: document" not in first.stderr
    assert "\x1b[31m" not in first.stderr
    assert "2 of 8 outputs are judged, 1 skipped." in first.stdout
    embedded("review", "export", 1, "--size", 6, "a.csv")
    with (embedded.folder / "a.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == 4
    with (embedded.folder / "b.csv").open("w", newline="") as file:
        judged = csv.DictWriter(file, rows[0].keys())
        judged.writeheader()
        judged.writerows(row | {"verdict": "good"} for row in rows)
    summary = embedded.json("review", "import", 1, "b.csv")
    assert (summary["judged"], summary["counted"], summary["skipped"], summary["outputs"]) == (6, 6, 0, 8)
    assert summary["shares"][0]["good"] == 5
    assert "The sample of 6 is judged" in embedded("review", "judge", 1, "--size", 6).stderr
    assert embedded.json("review", "summary", 1, "--seed", 9)["counted"] < 6
    embedded("review", "judge", 1, stdin=b"g\ng\n")
    assert "All 8 outputs are judged" in embedded("review", "judge", 1).stderr
    write_corpus([{"id": "other", "text": " "}], "other.jsonl")
    embedded("run", "translate", "other.jsonl", "--from", "fr", "--to", "en", "--model", "null")
    nothing = embedded("review", "judge", 2)
    assert "Job 2 has no outputs to judge." in nothing.stderr
    assert "0 of 0 outputs are judged." in nothing.stdout
    assert "b.csv:2: this is not an output of step translate of job 2" in (
        embedded("review", "import", 2, "b.csv", code=2).stderr
    )
    assert "a.txt ends in neither .csv" in embedded("review", "export", 1, "a.txt", code=2).stderr
    assert "FILE: there is no folder" in embedded("review", "export", 1, "no/a.csv", code=2).stderr


def test_results_have_the_risk_that_was_fitted(embedded: Docmill, write_corpus: Callable[..., Path]) -> None:
    blank = {"id": "blank", "text": " "}
    write_corpus([blank, *({"id": f"k{n}", "text": "word " * (1 + 300 * n)} for n in range(3))])
    embedded("run", "summarize", "corpus.jsonl", "--model", "null")
    assert "there are 0 good and 0 bad" in embedded("review", "fit", 1, code=2).stderr
    assert "`docmill review fit 1` does" in embedded("results", 1, "--risk", code=2).stderr
    database = Database(f"sqlite:///{embedded.folder / 'home' / 'docmill.db'}", kinds=KINDS)
    spec_id = read_step(database, 1).step.spec_id
    fitted_risks.store(
        database,
        spec_id,
        FittedRisk(0, RiskModel(0.0, (RiskFeature("tokens_in", 300.0, 1.0, 1.0),)), 1, 1, {}),
    )
    database.close()
    assert [round(row["risk"]) for row in embedded.results(1, "--risk")] == [0, 1, 1]
    assert [row["id"] for row in embedded.results(1, "--risk-above", "0.5")] == ["k1", "k2"]
    assert "No result" not in embedded("results", 1, "--unflagged", "--risk-above", "1").stderr  # some lack flags
    embedded("results", 1, "--risk", "--out", "a.csv")
    heading, *rows = read_cells(embedded.folder / "a.csv")
    assert heading[-1] == "risk"
    assert [(row[0], row[-1] and round(float(row[-1]))) for row in rows] == [
        ("blank", ""),  # a row for each input, and no risk where there is no output
        ("k0", 0),
        ("k1", 1),
        ("k2", 1),
    ]
    embedded("results", 1, "--risk-above", "0.5", "--out", "a.csv")
    assert [row[0] for row in read_cells(embedded.folder / "a.csv")[1:]] == ["k1", "k2"]
    parts = ("--part-documents", 2, "--out", "parts")
    assert "--risk is for one file" in embedded("results", 1, "--risk", *parts, code=2).stderr
