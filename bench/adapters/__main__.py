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
from bench.adapters.corpus import Description, read_descriptions, select_distinct
from bench.adapters.silver_entities import Catalogue
from bench.adapters.training import Recipe, train
from bench.pairs import RESULTS
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
SCORED_TEXTS = 500


@dataclass(frozen=True)
class Data:
    """All descriptions, and those for training and for scores. In the last two, each begins unlike all others."""

    descriptions: Sequence[Description]
    train: Sequence[Description]
    dev: Sequence[Description]

    @classmethod
    def read(cls, path: Path) -> Data:
        descriptions = read_descriptions(path)
        dev = select_distinct(description for description in descriptions if description.split == "dev")
        train_split = (description for description in descriptions if description.split == "train")
        return cls(descriptions, select_distinct(train_split, dev), dev)


def make_tagger(data: Data, base: Path, out: Path, steps: int, start: Path | None, dtype: str) -> dict[str, Any]:
    """Train the tagger unless ``steps`` is 0, and return its scores."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    common_words = {word for word in tokenizer.get_vocab() if word.isalpha()}
    catalogue = Catalogue([description.id for description in data.descriptions], common_words)
    train_texts, dev_texts = (
        [entities.LabelledText(description, catalogue.find_entities(description)) for description in descriptions]
        for descriptions in (data.train, data.dev)
    )
    selected = entities.select_texts(train_texts, entities.select_held_out(train_texts), 9_000)
    if steps:
        recipe = Recipe("TOKEN_CLS", entities.TAGS, steps, start=start)
        train(recipe, base, entities.encode_examples(selected, tokenizer), out)
    with_licence = [text for text in dev_texts[SCORED_TEXTS:] if any(label == "licence" for label, _ in text.names)]
    scored = [*dev_texts[:SCORED_TEXTS], *with_licence]
    known = frozenset(name for text in selected for name in text.names)
    return {
        aggregation: scores.score_entities(out, scored, known, aggregation, dtype)
        for aggregation in ("simple", "average")
    }


def make_answerer(data: Data, base: Path, out: Path, steps: int, start: Path | None, dtype: str) -> dict[str, Any]:
    """Train the answerer unless ``steps`` is 0, and return its scores."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    if steps:
        questions = answers.select_questions(data.train, seed=7)
        recipe = Recipe("QUESTION_ANS", (), steps, start=start)
        train(recipe, base, answers.encode_examples(questions, tokenizer), out)
    return scores.score_answers(out, answers.select_questions(data.dev, seed=8, max_answered=100), dtype)


def make_classifier(data: Data, base: Path, out: Path, steps: int, start: Path | None, dtype: str) -> dict[str, Any]:
    """Train the classifier unless ``steps`` is 0, and return its scores."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    trained, tried, dev = classes.split_labelled(data.train, data.dev)
    if steps:
        recipe = Recipe("SEQ_CLS", classes.LABELS, steps, peak_rate=1e-3, start=start, quality="native")
        train(recipe, base, classes.encode_examples(trained, tokenizer), out)
    return {
        "tried": scores.score_classes(out, trained, tried, dtype),
        "dev": scores.score_classes(out, trained, dev, dtype),
    }


@dataclass(frozen=True)
class Adapter:
    """An adapter of the quick start: the function that trains and scores it, and its number of training steps."""

    make: Callable[[Data, Path, Path, int, Path | None, str], dict[str, Any]]
    steps: int


ADAPTERS = {
    "entities": Adapter(make_tagger, 400),
    "answers": Adapter(make_answerer, 300),
    "classes": Adapter(make_classifier, 600),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=ADAPTERS)
    parser.add_argument("--data", type=Path, required=True, help="JSON lines with id, text, section and split")
    parser.add_argument("--steps", type=int, help="training steps; 0 only scores the existing adapter")
    parser.add_argument("--start", type=Path, help="the folder of an adapter to continue from")
    parser.add_argument("--out", type=Path, help="the adapter's folder [default: that in examples/models]")
    parser.add_argument("--dtype", choices=("float32", "int8"), default="float32", help="of the scored outputs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        folders = ModelFolders(None, Path(cache))
        pinned = pinning.pin("minilm", folders)
        base = pinning.locate(pinned, folders)
    adapter = ADAPTERS[options.name]
    steps = adapter.steps if options.steps is None else options.steps
    out = options.out or MODELS / f"{options.name}-ddtp"
    results = adapter.make(Data.read(options.data), base, out, steps, options.start, options.dtype)
    if options.out is None:
        suffix = "" if options.dtype == "float32" else f"-{options.dtype}"
        (RESULTS / f"adapter-{options.name}{suffix}.json").write_text(json.dumps(results, indent=1) + "\n")
    sys.stdout.write(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
