"""Compare the quality of each precision with float32: chrF and ROUGE of the shipped models' outputs.

The folder with references has `translations.jsonl.gz` ({lang, text, reference, split}) and `descriptions.jsonl.gz`
({text, synopsis, split}). Only rows whose split is `dev` are used. Without a folder, only the summaries of the
repository's examples are scored.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import rouge_score.rouge_scorer
import sacrebleu

from bench.pairs import RESULTS, machine
from docmill.tasks import kinds
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.engine.engine import Engine
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from docmill.tasks.specs.plan import build_spec

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
# Backends and precisions. The others are compared with the first.
VARIANTS = (
    ("transformers", "float32"),
    ("transformers", "native"),
    ("ctranslate2", "float32"),
    ("ctranslate2", "int8"),
)
TOLERANCE = 0.5
WAIT_S = 600.0


@dataclass(frozen=True)
class Question:
    """Texts of one task, each with a good output."""

    kind: str
    model: str
    texts: Sequence[str]
    references: Sequence[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the folder with references")
    parser.add_argument("--texts", type=int, default=300, help="texts of each task")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4])
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for question in read_questions(options.data, options.texts):
            for beams in options.beams:
                rows += list(score_variants(question, beams, Path(cache)))
    facts = {"machine": machine(), "within": TOLERANCE, "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "quality.json").write_text(json.dumps(facts, indent=1) + "\n")
    (RESULTS / "quality.md").write_text(format_page(rows))
    sys.stdout.write(format_page(rows))


def read_questions(data: Path | None, count: int) -> Iterator[Question]:
    """Yield up to `count` translations, if there is a folder, and up to `count` summaries."""
    if data is None:
        rows = [row for row in lines(EXAMPLES / "descriptions.jsonl") if row.get("synopsis")][:count]
    else:
        rows = [row for row in lines(data / "descriptions.jsonl.gz") if row["split"] == "dev"][:count]
        pairs = [row for row in lines(data / "translations.jsonl.gz") if row["split"] == "dev"][:count]
        texts, references = [row["text"] for row in pairs], [row["reference"] for row in pairs]
        yield Question("translate", "marian-ddtp", texts, references)
    if rows:
        yield Question("summarize", "synopsis-ddtp", [row["text"] for row in rows], [row["synopsis"] for row in rows])


def score_variants(question: Question, beams: int, cache: Path) -> Iterator[dict[str, Any]]:
    """Yield the scores of each variant, and their differences from those of the first."""
    first: dict[str, float] = {}
    for backend, dtype in VARIANTS:
        scores = score(compute_outputs(question, beams, backend, dtype, cache), question.references)
        first = first or scores
        differences = {name: round(value - first[name], 2) for name, value in scores.items()}
        yield {
            "task": question.kind,
            "beams": beams,
            "backend": backend,
            "dtype": dtype,
            "texts": len(question.texts),
            "scores": {name: round(value, 2) for name, value in scores.items()},
            "difference": differences,
            "holds": all(value >= -TOLERANCE for value in differences.values()),
        }


def compute_outputs(question: Question, beams: int, backend: str, dtype: str, cache: Path) -> list[str]:
    """Return the outputs of a variant for all texts. A text that failed has an empty output."""
    folders = ModelFolders(None, cache)
    engine = Engine(partial(open_backend, device="cpu", folders=folders, backend=backend))
    engine.start()
    try:
        pinned = pinning.pin(question.model, folders)
        config = pinning.read_config(pinned, folders)
        spec = build_spec(question.kind, pinned, kinds.options(question.kind, beams=beams, dtype=dtype), config)
        ticket = engine.submit(spec, list(enumerate(question.texts)))
        assert ticket.wait(WAIT_S)
        return [outcome.text or "" for outcome in ticket.finished()]
    finally:
        engine.close()


def score(outputs: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return chrF of the corpus, and the means of ROUGE-1 and ROUGE-L, all in percent."""
    scorer = rouge_score.rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    rouges = [scorer.score(reference, output) for output, reference in zip(outputs, references, strict=True)]
    return {
        "chrF": sacrebleu.corpus_chrf(list(outputs), [list(references)]).score,
        "ROUGE-1": 100 * sum(rouge["rouge1"].fmeasure for rouge in rouges) / len(rouges),
        "ROUGE-L": 100 * sum(rouge["rougeL"].fmeasure for rouge in rouges) / len(rouges),
    }


def format_page(rows: Sequence[dict[str, Any]]) -> str:
    """Return the page of results."""
    names = ("chrF", "ROUGE-1", "ROUGE-L")
    page = ["# quality", "", f"| task | beams | backend | precision | {' | '.join(names)} | within {TOLERANCE} |"]
    page.append("| --- | --: | --- | --- | --: | --: | --: | --- |")
    for row in rows:
        cells = [f"{row['scores'][name]:.2f} ({row['difference'][name]:+.2f})" for name in names]
        holds = "yes" if row["holds"] else "no"
        variant = f"{row['task']} | {row['beams']} | {row['backend']} | {row['dtype']}"
        page.append(f"| {variant} | {' | '.join(cells)} | {holds} |")
    return "\n".join(page) + "\n"


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of JSON lines, which may be gzipped."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for line in data.decode().splitlines():
        yield json.loads(line)


if __name__ == "__main__":
    main()
