"""Compare the quality of each precision with float32: chrF and ROUGE of the shipped models against references.

The references are those of a folder with `translations.jsonl.gz` ({lang, text, reference, split}) and
`descriptions.jsonl.gz` ({text, synopsis, split}), of which the texts whose split is `dev` are taken; without a folder
only the summaries of the repository's own examples are scored.
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
# The backend and the precision; the first is what the others are compared with.
WAYS = (("transformers", "float32"), ("transformers", "native"), ("ctranslate2", "float32"), ("ctranslate2", "int8"))
WITHIN = 0.5
WAIT_S = 600.0


@dataclass(frozen=True)
class Question:
    """Texts of one task with what a good answer is."""

    kind: str
    model: str
    texts: Sequence[str]
    references: Sequence[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the folder with references")
    parser.add_argument("--texts", type=int, default=300, help="of each task")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4])
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for question in questions(asked.data, asked.texts):
            for beams in asked.beams:
                rows += list(scored(question, beams, Path(cache)))
    facts = {"machine": machine(), "within": WITHIN, "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "quality.json").write_text(json.dumps(facts, indent=1) + "\n")
    (RESULTS / "quality.md").write_text(table(rows))
    sys.stdout.write(table(rows))


def questions(data: Path | None, count: int) -> Iterator[Question]:
    if data is None:
        rows = [row for row in lines(EXAMPLES / "descriptions.jsonl") if row.get("synopsis")][:count]
    else:
        rows = [row for row in lines(data / "descriptions.jsonl.gz") if row["split"] == "dev"][:count]
        pairs = [row for row in lines(data / "translations.jsonl.gz") if row["split"] == "dev"][:count]
        texts, references = [row["text"] for row in pairs], [row["reference"] for row in pairs]
        yield Question("translate", "marian-ddtp", texts, references)
    if rows:
        yield Question("summarize", "synopsis-ddtp", [r["text"] for r in rows], [r["synopsis"] for r in rows])


def scored(question: Question, beams: int, cache: Path) -> Iterator[dict[str, Any]]:
    """The scores in each way, and how far they are from the first's."""
    first: dict[str, float] = {}
    for backend, dtype in WAYS:
        found = score(answers(question, beams, backend, dtype, cache), question.references)
        first = first or found
        far = {name: round(value - first[name], 2) for name, value in found.items()}
        yield {
            "task": question.kind,
            "beams": beams,
            "backend": backend,
            "dtype": dtype,
            "texts": len(question.texts),
            "scores": {name: round(value, 2) for name, value in found.items()},
            "difference": far,
            "holds": all(value >= -WITHIN for value in far.values()),
        }


def answers(question: Question, beams: int, backend: str, dtype: str, cache: Path) -> list[str]:
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
    """chrF over the corpus, the means of ROUGE-1 and ROUGE-L; in percent."""
    scorer = rouge_score.rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    each = [scorer.score(reference, output) for output, reference in zip(outputs, references, strict=True)]
    return {
        "chrF": sacrebleu.corpus_chrf(list(outputs), [list(references)]).score,
        "ROUGE-1": 100 * sum(one["rouge1"].fmeasure for one in each) / len(each),
        "ROUGE-L": 100 * sum(one["rougeL"].fmeasure for one in each) / len(each),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    names = ("chrF", "ROUGE-1", "ROUGE-L")
    lines = ["# quality", "", f"| task | beams | backend | precision | {' | '.join(names)} | within {WITHIN} |"]
    lines.append("| --- | --: | --- | --- | --: | --: | --: | --- |")
    for row in rows:
        cells = [f"{row['scores'][name]:.2f} ({row['difference'][name]:+.2f})" for name in names]
        holds = "yes" if row["holds"] else "no"
        head = f"{row['task']} | {row['beams']} | {row['backend']} | {row['dtype']}"
        lines.append(f"| {head} | {' | '.join(cells)} | {holds} |")
    return "\n".join(lines) + "\n"


def lines(path: Path) -> Iterator[dict[str, Any]]:
    whole = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for line in whole.decode().splitlines():
        yield json.loads(line)


if __name__ == "__main__":
    main()
