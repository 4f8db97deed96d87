"""Train an adapter, save it and score it: `python -m bench.adapters entities --data descriptions.jsonl.gz`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from bench.adapters import answers, classes, entities, scores
from bench.adapters.corpus import Description, descriptions, distinct
from bench.adapters.silver_entities import Catalogue
from bench.adapters.training import Recipe, train
from bench.pairs import RESULTS
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
DEV = 500


@dataclass(frozen=True)
class Data:
    """Descriptions for training and for scores, of which none begins like another."""

    rows: Sequence[Description]
    train: Sequence[Description]
    dev: Sequence[Description]

    @classmethod
    def read(cls, path: Path) -> Data:
        rows = descriptions(path)
        dev = distinct(row for row in rows if row.split == "dev")
        return cls(rows, distinct((row for row in rows if row.split == "train"), dev), dev)


def tagger(data: Data, base: Path, out: Path, steps: int, start: Path | None, dtype: str) -> dict[str, Any]:
    """Train the tagger unless ``steps`` is 0, and return its scores."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    catalogue = Catalogue([row.id for row in data.rows], {word for word in tokenizer.get_vocab() if word.isalpha()})
    texts, unseen = (
        [entities.Labelled(row, catalogue.entities(row)) for row in rows] for rows in (data.train, data.dev)
    )
    some = entities.chosen(texts, entities.held_out(texts), 9_000)
    if steps:
        train(Recipe("TOKEN_CLS", entities.TAGS, steps, start=start), base, entities.examples(some, tokenizer), out)
    rare = [one for one in unseen[DEV:] if any(label == "licence" for label, _ in one.names)]
    known = frozenset(name for one in some for name in one.names)
    return {way: scores.of_entities(out, [*unseen[:DEV], *rare], known, way, dtype) for way in ("simple", "average")}


def answerer(data: Data, base: Path, out: Path, steps: int, start: Path | None, dtype: str) -> dict[str, Any]:
    """Train the answerer unless ``steps`` is 0, and return its scores."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    if steps:
        asked = answers.asked_of(data.train, seed=7)
        train(Recipe("QUESTION_ANS", (), steps, start=start), base, answers.examples(asked, tokenizer), out)
    return scores.of_answers(out, answers.asked_of(data.dev, seed=8, most=100), dtype)


def classifier(data: Data, base: Path, out: Path, steps: int, start: Path | None, dtype: str) -> dict[str, Any]:
    """Train the classifier unless ``steps`` is 0, and return its scores."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    some, tried, unseen = classes.parts(data.train, data.dev)
    if steps:
        recipe = Recipe("SEQ_CLS", classes.LABELS, steps, peak_rate=1e-3, start=start, quality="native")
        train(recipe, base, classes.examples(some, tokenizer), out)
    return {"tried": scores.of_classes(out, some, tried, dtype), "dev": scores.of_classes(out, some, unseen, dtype)}


@dataclass(frozen=True)
class Trained:
    """An adapter of the quick start: how it is made and scored, and in how many steps."""

    make: Callable[[Data, Path, Path, int, Path | None, str], dict[str, Any]]
    steps: int


ALL = {"entities": Trained(tagger, 400), "answers": Trained(answerer, 300), "classes": Trained(classifier, 600)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=ALL)
    parser.add_argument("--data", type=Path, required=True, help="JSON lines with id, text, section and split")
    parser.add_argument("--steps", type=int, help="0 only scores the adapter that is there")
    parser.add_argument("--start", type=Path, help="the folder of an adapter to go on from")
    parser.add_argument("--out", type=Path, help="the adapter's folder [default: that in examples/models]")
    parser.add_argument("--dtype", choices=("float32", "int8"), default="float32", help="of the scored outputs")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        folders = ModelFolders(None, Path(cache))
        pinned = pinning.pin("minilm", folders)
        base = pinning.locate(pinned, folders)
    made = ALL[asked.name]
    steps = made.steps if asked.steps is None else asked.steps
    out = asked.out or MODELS / f"{asked.name}-ddtp"
    found = made.make(Data.read(asked.data), base, out, steps, asked.start, asked.dtype)
    if asked.out is None:
        name = f"adapter-{asked.name}" if asked.dtype == "float32" else f"adapter-{asked.name}-{asked.dtype}"
        (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
