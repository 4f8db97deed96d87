"""The difference of two outputs, and what may have caused it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from worker.explaining.difference import Cause, causes, difference

RUNTIME = {
    "precision": "float32",
    "backend": "transformers",
    "device": "cpu",
    "versions": {"torch": "2", "python": "3"},
}


def labels(**scores: float) -> dict[str, Any]:
    return {"labels": [{"label": label, "score": score} for label, score in scores.items()]}


def spans(*found: tuple[str, int, int, float]) -> dict[str, Any]:
    return {
        "spans": [
            {"label": label, "text": "x", "start": start, "end": end, "score": score}
            for label, start, end, score in found
        ]
    }


def test_equal_texts_are_the_same() -> None:
    found = difference({"text": "one two"}, {"text": "one two"})
    assert (found.same, found.summary, found.lines) == (True, "the same", ())


def test_the_words_that_differ_are_marked_among_those_around_them() -> None:
    then = "a b c d e f g existing existing h i j k l m n"
    now = "a b c d e f g h i j k l m n o"
    found = difference({"text": then}, {"text": now})
    assert found.summary == "2 of 16 words then, 1 of 15 now"
    assert found.lines == ("… d e f g [-existing existing-] h i j k l m n {+o+}",)
    (line,) = difference({"text": f"{then} " * 3}, {"text": f"{then} " * 2 + now}).lines
    assert line.startswith("… ")
    assert "[-existing existing-]" in line


def test_texts_that_differ_in_white_space_say_so() -> None:
    found = difference({"text": "one\ntwo"}, {"text": "one two"})
    assert (found.same, found.summary) == (False, "only white space differs")


def test_vectors_are_compared_by_their_cosine_and_their_largest_difference() -> None:
    then = np.array([3.0, 4.0], np.float32)
    assert difference({"vector": then}, {"vector": then + np.float32(1e-5)}).same
    found = difference({"vector": then}, {"vector": [4.0, 3.0]})
    assert (found.same, found.summary) == (False, "cosine 0.9600000, largest difference 1")
    several = difference({"vector": [[1.0, 0.0], [0.0, 1.0]]}, {"vector": [[1.0, 0.0], [1.0, 0.0]]})
    assert several.summary == "cosine 0.0000000, largest difference 1"
    other = difference({"vector": [[1.0, 0.0]]}, {"vector": [1.0, 0.0, 0.0]})
    assert other.summary == "1 × 2 numbers then, 1 × 3 numbers now"


def test_labels_and_spans_are_compared_by_name_and_place() -> None:
    assert difference(labels(good=0.75, bad=0.25), labels(bad=0.25001, good=0.74999)).same
    found = difference(labels(good=0.75, bad=0.25), labels(bad=0.65, new=0.35))
    assert found.summary == "3 of 3 labels, largest difference 0.4"
    assert found.lines == ("[-good-] 0.7500", "bad: 0.2500 then, 0.6500 now", "{+new+} 0.3500")
    found = difference(spans(("PER", 0, 4, 0.9), ("LOC", 5, 9, 0.8)), spans(("PER", 0, 5, 0.9), ("LOC", 5, 9, 0.8)))
    assert found.lines == ("[-PER 0 4 x-] 0.9000", "{+PER 0 5 x+} 0.9000")


def test_records_are_compared_value_by_value() -> None:
    then = {"data": {"name": "a", "sizes": [1, 2.0], "open": True}}
    assert difference(then, {"data": {"open": True, "sizes": [1, 2.00001], "name": "a"}}).same
    found = difference(then, {"data": {"name": "b", "sizes": [1], "open": 1}})
    assert found.summary == "2 of 4 values"
    assert found.lines == ("data/name: a then, b now", "data/sizes/1: 2.0 then, nothing now")


def test_of_many_differing_values_the_first_are_listed() -> None:
    found = difference({"data": list(range(50))}, {"data": [-1] * 50})
    assert (len(found.lines), found.lines[-1]) == (21, "… 30 more")


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (RUNTIME, ()),
        ({**RUNTIME, "precision": "bfloat16"}, (Cause("precision", "float32", "bfloat16"),)),
        ({**RUNTIME, "versions": {"torch": "3", "python": "3"}}, (Cause("torch", "2", "3"),)),
        ({**RUNTIME, "device": "cuda"}, (Cause("device", "cpu", "cuda"),)),
        (  # the libraries that only one of two backends has are no news
            {**RUNTIME, "backend": "ctranslate2", "versions": {"ctranslate2": "4", "python": "3"}},
            (Cause("backend", "transformers", "ctranslate2"),),
        ),
    ],
)
def test_what_differs_between_two_runtimes_is_named(now: dict[str, Any], expected: tuple[Cause, ...]) -> None:
    assert causes(RUNTIME, now) == expected


def test_a_runtime_that_was_not_kept_is_named() -> None:
    assert causes(None, RUNTIME) == (Cause("runtime", "not kept", "transformers"),)
