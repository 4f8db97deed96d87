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
from tokenizers import processors
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerFast, pipeline
from transformers.pipelines.token_classification import AggregationStrategy

from docmill.storage.core.specs import Outcome
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.errors import ModelUnsuitable
from docmill.tasks.windows.windows import trimmed
from tests.tasks import architectures, classifiers
from tests.tasks.conftest import Bench, Benches, data_of
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


def sentence_pieces(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return DeBERTa's kind of tokenizer, whose tokens begin with the white space before a word."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    tokenizer = architectures.unigram(texts, special, size=500, unknown="[UNK]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "cls", "sep", "unk", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **names)


def model(folder: Path, lines: Sequence[str], name: str, **config: Any) -> Path:
    tokenizer = sentence_pieces(lines) if name == "deberta-v2" else None
    return classifiers.classifier(
        folder,
        lines,
        name,
        head=AutoModelForTokenClassification,
        tokenizer=tokenizer,
        **{"id2label": LABELS, **config},
    )


def expected(folder: Path, texts: Sequence[str], *strategies: str) -> list[list[list[Entity]]]:
    """Return each text's entities for each strategy from transformers' pipeline, without white space at their ends.

    Each text goes through the model once.
    """
    found: list[list[list[Entity]]] = [[] for _ in strategies]
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = pipeline("token-classification", model=str(folder), dtype=torch.float32, device="cpu")
        for text in texts:
            computed = [own.forward(given) for given in own.preprocess(text, is_split_into_words=False)]
            for of_strategy, strategy in zip(found, map(AggregationStrategy, strategies), strict=True):
                entities = own.postprocess(computed, aggregation_strategy=strategy)
                of_strategy.append(without_space(text, entities))
    return found


def alone(folder: Path, texts: Sequence[str], strategy: str) -> list[list[Entity]]:
    return expected(folder, texts, strategy)[0]


def without_space(text: str, found: Sequence[Any]) -> list[Entity]:
    """Return entities of transformers without white space at their ends, but for those of nothing else."""
    spans = [(str(one["entity_group"]), *trimmed(text, one["start"], one["end"]), one["score"]) for one in found]
    return [(label, start, end, float(score)) for label, start, end, score in spans if start < end]


def entities(outcome: Outcome) -> list[Entity]:
    return [(one["label"], one["start"], one["end"], one["score"]) for one in data_of(outcome)["spans"]]


def same_entities(found: Sequence[Entity], own: Sequence[Entity]) -> bool:
    ordered = sorted(own, key=lambda one: one[1:3])
    spans = [one[:3] for one in found] == [one[:3] for one in ordered]
    return spans and [one[3] for one in found] == pytest.approx([one[3] for one in ordered], abs=1e-4)


@some_and_more(40, 500)
@half_and_more(NAMES)
def test_entities_are_those_of_transformers_for_every_architecture_encoder_and_aggregation(
    name: str, count: int, descriptions: list[str], french: list[str], benches: Benches, tmp_path: Path
) -> None:
    lines = real_lines([*descriptions, *french], count, shorter_than=90)
    folder = model(tmp_path / name, lines, name)
    texts = [*lines, *UNKNOWN]
    for strategy, wanted in zip(STRATEGIES, expected(folder, texts, *STRATEGIES), strict=True):
        assert len({entity[0] for own in wanted for entity in own}) > 1
        for backend in ("transformers", *(("openvino",) if strategy == "average" else ())):
            bench = benches(backend)
            spec = bench.spec("entities", str(folder), aggregation=strategy)
            outcomes = bench.run(spec, texts)
            assert bench.engine.open(spec)["backend"] == backend
            reference = partial(alone, folder, texts, strategy)
            require_equal([*map(entities, outcomes)], reference, same=same_entities, expected=wanted)


def test_a_model_without_a_head_for_tokens_is_refused(bench: Bench) -> None:
    with pytest.raises(ModelUnsuitable, match=r"needs a model with a head for token classification; minilm \(Bert"):
        bench.spec("entities", "minilm")


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
    folder = model(tmp_path / name, lines, name)
    bench = benches("transformers")
    whole = bench.spec("entities", str(folder))
    in_windows = bench.spec("entities", str(folder), window_tokens=12, aggregation="average")
    found = 0

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(TEXTS.filter(str.strip), min_size=1, max_size=5))
    def holds(texts: list[str]) -> None:
        nonlocal found
        for spec in (whole, in_windows):
            for text, outcome in zip(texts, bench.run(spec, texts), strict=True):
                for one in data_of(outcome)["spans"]:
                    found += 1
                    assert one["text"]
                    assert text[one["start"] : one["end"]] == one["text"] == one["text"].strip()
                    assert 0 <= one["start"] < one["end"] <= len(text)

    holds()
    assert found
