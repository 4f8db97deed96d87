"""Passages of documents: where they end, and which are compared with the query."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np

from docmill.storage.core.outcomes import Reason
from docmill.tasks.engine.passages import COMPARED, PASSAGE_CHARS, cut, nearest, proposed
from docmill.tasks.outputs import Failure, Vector

FOREST = "The forest is full of old trees. "
ENGINE = "A steam engine drives the wheels of the locomotive. "


def test_passages_are_whole_sentences_and_leave_none_out() -> None:
    text = FOREST * 20 + "\n\n" + ENGINE * 20
    spans = cut(text)
    assert "".join("".join(text[start:end] for start, end in spans).split()) == "".join(text.split())
    for start, end in spans:
        assert end - start <= PASSAGE_CHARS
        assert text[start:end].endswith(".")
        assert text[start:end].startswith(("The forest", "A steam"))


def test_passages_of_a_stretch_have_their_places_in_the_text() -> None:
    text = FOREST * 20 + ENGINE * 20
    spans = cut(text, (len(FOREST) * 20, len(text)))
    assert spans[0][0] == len(FOREST) * 20
    assert all(FOREST.strip() not in text[start:end] for start, end in spans)


def test_white_space_has_no_passages() -> None:
    assert cut(" \n ") == []


def test_of_a_long_document_the_passages_with_rare_words_of_the_query_and_some_of_every_part_are_compared() -> None:
    text = (FOREST * 200) + ENGINE + (FOREST * 200)
    spans = cut(text)
    assert len(spans) > COMPARED
    chosen = proposed(text, spans, "the wheels of a LOCOMOTIVE")
    assert len(chosen) == COMPARED
    assert chosen == sorted(chosen)
    assert any("locomotive" in text[start:end] for start, end in chosen)
    assert chosen[0] == spans[0]
    assert chosen[-1] == spans[-1]


def test_a_rare_word_of_the_query_counts_for_more_than_two_that_are_everywhere() -> None:
    text = FOREST * 200 + "A Wheel. ".ljust(PASSAGE_CHARS) + FOREST * 201
    spans = cut(text)
    chosen = proposed(text, spans, "the forest WHEEL")
    assert any("Wheel" in text[start:end] for start, end in chosen)


def test_without_a_word_of_the_query_the_passages_of_every_part_are_compared() -> None:
    text = FOREST * 400
    spans = cut(text)
    chosen = proposed(text, spans, "quick")
    places = [spans.index(span) for span in chosen]
    assert len(places) == COMPARED
    steps = {later - sooner for sooner, later in pairwise(places)}
    assert max(steps) - min(steps) <= 1


def embed(_: object, texts: Sequence[str]) -> list[Vector | Failure]:
    """A vector of how much a passage is about engines and about forests; none for one that has a wheel."""
    asked.extend(texts)
    counts = ((text.count("engine"), text.count("forest")) for text in texts)
    vectors = [Vector(np.array(count, np.float32)) for count in counts]
    failure = Failure("It has a wheel.", Reason.MODEL)
    return [failure if "Wheel" in text else vector for text, vector in zip(texts, vectors, strict=True)]


asked: list[str] = []
ENGINES = np.array([1, 0], np.float32)


def found(texts: Sequence[tuple[str, tuple[int, int] | None]]) -> list[str | None]:
    asked.clear()
    spans = nearest(embed, cast(Any, None), "engine", ENGINES, texts)
    return [None if span is None else text[slice(*span)] for (text, _), span in zip(texts, spans, strict=True)]


def test_each_text_has_its_own_nearest_passage_within_its_stretch() -> None:
    long = FOREST * 60 + "\n\n" + ENGINE * 3 + "\n\n" + FOREST * 20
    here = (0, 12 * len(FOREST))
    passages = found([(long, None), (FOREST, None), (" ", None), (long, here), (long, None)])
    assert passages[0] == passages[4] == (ENGINE * 3).strip()
    assert passages[1] == FOREST.strip()
    assert passages[2] is None
    assert passages[3] is not None
    assert "engine" not in passages[3]
    assert FOREST.strip() not in asked, "a text of one passage is not embedded"


def test_a_passage_that_cannot_be_embedded_is_no_hit() -> None:
    assert found([("\n\n".join(["A Wheel. ".ljust(150, "x"), ENGINE * 2, FOREST * 5]), None)]) == [
        (ENGINE * 2).strip()
    ]
    assert found([("\n\n".join(["A Wheel. ".ljust(150, "x")] * 2), None)]) == [None]
