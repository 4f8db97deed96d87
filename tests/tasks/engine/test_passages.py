"""Passages of documents: where they end, and which are compared with the query."""

from __future__ import annotations

from itertools import pairwise

from tasks.engine.passages import COMPARED, PASSAGE_CHARS, cut, proposed

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
