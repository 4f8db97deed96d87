"""Answers are those of transformers in float32, one text at a time, of all spans scored at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from docmill.storage.core.specs import Outcome
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.encoder.encoder_backend import EncoderBackend
from docmill.tasks.backends.encoder.packed import PackedEncoder
from docmill.tasks.outputs import Head, SpanScores
from tests.tasks import classifiers
from tests.tasks.backends.encoder.test_token_classification import PACKED
from tests.tasks.conftest import Bench, Benches, data_of
from tests.tasks.kinds.test_answer_spans import Case, by_hand, places_of
from tests.tasks.real_lines import half_and_more, real_lines, some_and_more

Answer = tuple[int, int, float]  # start, end, score
NAMES = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "deberta-v2", "modernbert", "longformer")
QUESTIONS = ["What is in the package?", "Which language is it written in?"]
LONGEST = 30


def save_model(folder: Path, lines: Sequence[str], name: str) -> Path:
    texts, labels = [*lines, *QUESTIONS], {0: "start", 1: "end"}
    return classifiers.classifier(folder, texts, name, head=AutoModelForQuestionAnswering, id2label=labels)


class Reference:
    """transformers' own model, which reads a question and a whole text."""

    def __init__(self, folder: Path) -> None:
        with quiet():
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            self.model = AutoModelForQuestionAnswering.from_pretrained(folder, dtype=torch.float32).eval()

    def answers(self, question: str, text: str) -> tuple[list[Answer], float]:
        """Return the three best answers at different characters, and the score of "no answer"."""
        encoded = self.tokenizer(question, text, return_offsets_mapping=True, return_tensors="pt")
        of_text = [place for place, number in enumerate(encoded.sequence_ids()) if number == 1]
        offsets = encoded["offset_mapping"][0].tolist()
        places = [(offsets[place][0], offsets[place][1]) for place in of_text]
        with quiet(), torch.inference_mode():
            names = encoded.keys() & self.tokenizer.model_input_names
            output = self.model(**{name: encoded[name] for name in names})
        starts, ends = output.start_logits[0].numpy(), output.end_logits[0].numpy()
        null = float(starts[0] + ends[0])
        window = places_of(places, 0), SpanScores(starts[of_text], ends[of_text], null)
        best = by_hand(Case(text, places, [window]), LONGEST)[:3]
        _, _, logit, score = best[0]
        return [(start, end, score) for start, end, _, score in best], math.exp(null - logit) * score


def assert_same(
    expected: Sequence[Sequence[tuple[list[Answer], float]]], texts: Sequence[str], outcomes: Sequence[Outcome]
) -> None:
    """Assert that nearly all best answers are the expected ones, and that all scores are near."""
    same = questions = 0
    for text, outcome, answers in zip(texts, outcomes, expected, strict=True):
        actual = data_of(outcome)["data"]
        for number, (best, no_answer) in enumerate(answers, 1):
            spans = actual[f"answer_{number}_spans"]
            assert actual[f"answer_{number}_no_answer"] == pytest.approx(no_answer, rel=2e-2, abs=1e-6)
            assert [span["score"] for span in spans] == pytest.approx([span[2] for span in best], rel=2e-2)
            questions += 1
            if [(span["start"], span["end"]) for span in spans[:1]] == [span[:2] for span in best[:1]]:
                same += 1
                answer = None if no_answer > best[0][2] else text[best[0][0] : best[0][1]]
                assert actual[f"answer_{number}"] == answer
    assert same >= 0.99 * questions


@some_and_more(50, 500)
@half_and_more(NAMES)
def test_answers_are_those_of_transformers_for_every_architecture(
    name: str, count: int, descriptions: list[str], french: list[str], benches: Benches, tmp_path: Path
) -> None:
    lines = real_lines([*descriptions, *french], count, longer_than=20, shorter_than=76)
    folder = save_model(tmp_path / name, lines, name)
    reference = Reference(folder)
    expected = [[reference.answers(question, line) for question in QUESTIONS] for line in lines]
    for backend in ("transformers", *(("openvino",) if name in {"bert", "roberta", "modernbert"} else ())):
        bench = benches(backend)
        spec = bench.spec("answer", folder, question=QUESTIONS, top_k=3)
        outcomes = bench.run(spec, lines)
        assert_same(expected, lines, outcomes)
        assert bench.engine.open(spec)["backend"] == backend
        with bench.engine._models.hold(spec) as loaded:
            opened: Any = loaded.backend
            if isinstance(opened, EncoderBackend) and backend == "transformers":
                assert (opened._model.encoder is None) is (name in classifiers.WHOLE)
                assert isinstance(opened._states_of, PackedEncoder) is (name in PACKED)
    assert len({data_of(outcome)["data"]["answer_1_spans"][0]["text"] for outcome in outcomes}) > len(lines) / 2


def test_a_question_stands_after_the_text_for_models_that_pad_on_the_left(
    lines: list[str], bench: Bench, tmp_path: Path
) -> None:
    folder = save_model(tmp_path / "bert", lines, "bert")
    spec = bench.spec("answer", folder, question="What is it?")
    for side in ("right", "left"):
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
        tokenizer.save_pretrained(folder)
        opened = EncoderBackend(Assignment(spec, folder, "cpu", tmp_path / side, Head.ANSWERING))
        assert opened.traits.pairs is not None
        (encoded,) = opened.traits.pairs("What is it?").encode([lines[0]])
        pair = ("What is it?", lines[0]) if side == "right" else (lines[0], "What is it?")
        assert {name: [*encoded.feature(name)] for name in ("input_ids", "token_type_ids")} == {
            name: ids for name, ids in tokenizer(*pair).items() if name != "attention_mask"
        }
        assert encoded.places is not None
        text_encoded = tokenizer(lines[0], return_offsets_mapping=True, add_special_tokens=False)
        assert [*zip(encoded.places.starts, encoded.places.ends, strict=True)] == text_encoded["offset_mapping"]
        opened.close()
