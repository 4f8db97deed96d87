"""Extractive summaries: the sentences that the published rule ranks first, cited where they stand."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from docmill.storage.outputs.output_types import RANKING, TEXT
from docmill.tasks.errors import BadOption, CannotServe
from docmill.tasks.kinds.summarize import RELEVANCE, SENTENCES, best, count_words
from docmill.tasks.windows.paragraphs import sentences, unwrapped
from tests.tasks.conftest import Bench
from tests.tasks.reference import load_sentence_transformer

OTHER_SCRIPTS = (
    "東京は日本の首都です。人口は多い。電車がたくさんあります。食べ物がおいしい。 Ὁ βίος βραχύς, ἡ δὲ τέχνη μακρή. "
    "दिल्ली भारत की राजधानी है। यह बहुत बड़ा नगर है। ما اسمك؟ اسمي علي وأسكن في القاهرة. 🙂🙂 Emoji stand before this."
)


def by_the_rule(rows: list[list[float]], count: int) -> list[int]:
    """Return the places of the best sentences by their vectors, the best first, computed without numpy."""
    units = [[value / sum(number * number for number in row) ** 0.5 for value in row] for row in rows]
    centroid = [sum(column) / len(units) for column in zip(*units, strict=True)]
    length = sum(number * number for number in centroid) ** 0.5

    def cosine(first: list[float], second: list[float], scale: float = 1.0) -> float:
        return sum(a * b for a, b in zip(first, second, strict=True)) / scale

    chosen: list[int] = []
    while len(chosen) < count:
        worth = {
            place: RELEVANCE * cosine(row, centroid, length)
            - (1 - RELEVANCE) * max((cosine(row, units[place_chosen]) for place_chosen in chosen), default=0.0)
            for place, row in enumerate(units)
            if place not in chosen
        }
        chosen.append(max(worth, key=lambda place: (worth[place], -place)))
    return chosen


def places(
    rows: npt.NDArray[np.float32], late: Collection[int] = (), sizes: Sequence[int] = (1,) * 12, *, room: int
) -> list[int]:
    return [place for place, _ in best(rows, [place in late for place in range(12)], sizes, room)]


def test_the_best_sentence_comes_first_one_that_repeats_it_late_and_none_that_does_not_fit() -> None:
    rows = np.random.default_rng(3).normal(size=(12, 5)).astype(np.float32)
    rows[7] = 2 * rows[2]
    order = places(rows, room=12)
    assert order == by_the_rule([[*map(float, row)] for row in rows], 12)
    assert places(rows, room=5) == order[:5]
    late = {order[0], order[3]}
    assert {*places(rows, late, room=12)[-2:]} == late
    assert len(places(rows, {*range(12)}, room=12)) == 12
    sizes = [9 if place == order[1] else 2 for place in range(12)]
    assert places(rows, sizes=sizes, room=7) == [order[0], *order[2:4]]
    assert places(rows, sizes=[9] * 12, room=7) == order[:1]
    assert order[0] not in places(rows, sizes=[9 if place == order[0] else 2 for place in range(12)], room=7)


def test_the_summary_of_a_long_document_is_what_the_rule_makes_of_sentence_transformers_vectors(
    bench: Bench, descriptions: list[str]
) -> None:
    spec = bench.spec("summarize", "minilm")
    texts = ["\n\n".join(descriptions[:12]), OTHER_SCRIPTS]
    model = load_sentence_transformer(bench.folder(spec))
    for text, outcome in zip(texts, bench.run(spec, texts), strict=True):
        pieces = [text[sentence.start : sentence.end] for sentence in sentences(text)]
        ranked = [unwrapped(piece) for piece in pieces if count_words(piece) >= 4]
        vectors = model.encode(ranked, show_progress_bar=False)
        order = by_the_rule([[*map(float, row)] for row in vectors], SENTENCES)
        cited = (outcome.data or {})["sentences"]
        assert [unwrapped(sentence["text"]) for sentence in cited] == [ranked[place] for place in sorted(order)]
        assert all(text[sentence["start"] : sentence["end"]] == sentence["text"] for sentence in cited)
        assert outcome.text == "\n".join(sentence["text"] for sentence in cited)
        assert TEXT.problem(outcome) is None
        assert len(ranked) > 2 * SENTENCES


def test_a_sentence_longer_than_the_window_is_one_and_text_without_words_has_none(bench: Bench) -> None:
    long = f"The {'very long ' * 20}sentence ends here. It has a short one beside it."
    spec = bench.spec("summarize", "minilm", window_tokens=16)
    whole, empty = bench.run(spec, [long, "---\n\n```\ncode.\n```\n"])
    assert (whole.text, whole.flags) == (long.replace(". It", ".\nIt"), ("windowed",))
    (short,) = bench.run(bench.spec("summarize", "minilm", length=5), ["It rains. " + OTHER_SCRIPTS])
    assert count_words(short.text or "") <= 5
    assert (empty.text, empty.data, empty.flags) == ("", {"sentences": []}, ("empty",))


def test_options_of_models_that_write_are_refused_and_a_job_from_before_the_config_was_known(bench: Bench) -> None:
    with pytest.raises(BadOption, match="--seed is for models that write; minilm chooses sentences of the document"):
        bench.spec("summarize", "minilm", seed=5)
    spec = bench.spec("summarize", "minilm")
    assert spec.params[RANKING] == "centroid-mmr-1"
    with pytest.raises(CannotServe, match=r"The config.json of minilm was not available when this job was made"):
        bench.engine.open(replace(spec, params={}))
