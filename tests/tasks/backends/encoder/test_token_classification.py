"""Entities are those of transformers' token-classification pipeline in float32, one text at a time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForTokenClassification, pipeline
from transformers.pipelines.token_classification import AggregationStrategy

from docmill.storage.core.specs import Outcome
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.windows.windows import trimmed
from tests.tasks import classifiers
from tests.tasks.conftest import Benches, data_of
from tests.tasks.deciding import require_equal
from tests.tasks.real_lines import half_and_more, real_lines, some_and_more

Entity = tuple[str, int, int, float]
AVERAGE = AggregationStrategy.AVERAGE
LABELS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC", 5: "geo-thing"}
NAMES = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "deberta-v2", "modernbert")
STRATEGIES = ("simple", "first", "average", "max")
PACKED = frozenset({"bert", "roberta", "xlm-roberta", "distilbert"})


# Words with characters that no small tokenizer has seen.
UNKNOWN = ["A name☃name and ☃☃ of ☃x.", "漢字 names, 漢字-names"]


def save_model(folder: Path, lines: Sequence[str], name: str) -> Path:
    return classifiers.classifier(folder, lines, name, head=AutoModelForTokenClassification, id2label=LABELS)


def tag_by_pipeline(folder: Path, texts: Sequence[str], *strategies: str) -> list[list[list[Entity]]]:
    """Return each text's entities for each strategy from transformers' pipeline, without white space at their ends.

    Each text goes through the model once.
    """
    by_strategy: list[list[list[Entity]]] = [[] for _ in strategies]
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tagger = pipeline("token-classification", model=str(folder), dtype=torch.float32, device="cpu")
        for text in texts:
            computed = [tagger.forward(window) for window in tagger.preprocess(text, is_split_into_words=False)]
            for of_strategy, strategy in zip(by_strategy, map(AggregationStrategy, strategies), strict=True):
                entities = tagger.postprocess(computed, aggregation_strategy=strategy)
                of_strategy.append(strip_entities(text, entities))
    return by_strategy


def tag_by_strategy(folder: Path, texts: Sequence[str], strategy: str) -> list[list[Entity]]:
    return tag_by_pipeline(folder, texts, strategy)[0]


def strip_entities(text: str, groups: Sequence[Any]) -> list[Entity]:
    """Return entities of transformers without white space at their ends. Entities of white space are left out."""
    entities = []
    for group in groups:
        start, end = trimmed(text, group["start"], group["end"])
        if start < end:
            entities.append((str(group["entity_group"]), start, end, float(group["score"])))
    return entities


def entities_of(outcome: Outcome) -> list[Entity]:
    return [(span["label"], span["start"], span["end"], span["score"]) for span in data_of(outcome)["spans"]]


def same_entities(actual: Sequence[Entity], expected: Sequence[Entity]) -> bool:
    ordered = sorted(expected, key=lambda entity: entity[1:3])
    spans = [entity[:3] for entity in actual] == [entity[:3] for entity in ordered]
    return spans and [entity[3] for entity in actual] == pytest.approx([entity[3] for entity in ordered], abs=1e-4)


@some_and_more(40, 500)
@half_and_more(NAMES)
def test_entities_are_those_of_transformers_for_every_architecture_encoder_and_aggregation(
    name: str, count: int, descriptions: list[str], french: list[str], benches: Benches, tmp_path: Path
) -> None:
    lines = real_lines([*descriptions, *french], count, shorter_than=90)
    folder = save_model(tmp_path / name, lines, name)
    texts = [*lines, *UNKNOWN]
    for strategy, expected in zip(STRATEGIES, tag_by_pipeline(folder, texts, *STRATEGIES), strict=True):
        assert len({entity[0] for of_text in expected for entity in of_text}) > 1
        for backend in ("transformers", *(("openvino",) if strategy == "average" else ())):
            bench = benches(backend)
            spec = bench.spec("entities", folder, aggregation=strategy)
            outcomes = bench.run(spec, texts)
            assert bench.engine.open(spec)["backend"] == backend
            reference = partial(tag_by_strategy, folder, texts, strategy)
            require_equal([*map(entities_of, outcomes)], reference, same=same_entities, expected=expected)


SCRIPTS = st.sampled_from(
    [
        *("e\u0301", "n\u0303", "\u0300", "\u202eabc", "\u00a0", "\u200b", "\u3000", "\t", "\n", "\r\n", "  ", " "),
        *("\U0001f469\u200d\U0001f467", "🇨🇭", "𝔘", "𠮷", "漢字", "かな", "한국", "שלום", "مرحبا", "น้ำ", "नमस्ते"),
        *("word", "İ", "ß", "ﬁ", "[SEP]", "##s", "▁", "Ġ", "-", "."),
    ]
)
TEXTS = st.lists(SCRIPTS | st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).map("".join)


@half_and_more(["deberta-v2", "bert", "roberta"])
def test_an_entity_is_the_stretch_of_the_text_at_its_offsets_in_every_script(
    name: str, lines: list[str], benches: Benches, tmp_path: Path
) -> None:
    folder = save_model(tmp_path / name, lines, name)
    bench = benches("transformers")
    whole = bench.spec("entities", folder)
    in_windows = bench.spec("entities", folder, window_tokens=12, aggregation="average")
    n_spans = 0

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(TEXTS.filter(str.strip), min_size=1, max_size=5))
    def holds(texts: list[str]) -> None:
        nonlocal n_spans
        for spec in (whole, in_windows):
            for text, outcome in zip(texts, bench.run(spec, texts), strict=True):
                for span in data_of(outcome)["spans"]:
                    n_spans += 1
                    assert span["text"]
                    assert text[span["start"] : span["end"]] == span["text"] == span["text"].strip()
                    assert 0 <= span["start"] < span["end"] <= len(text)

    holds()
    assert n_spans
