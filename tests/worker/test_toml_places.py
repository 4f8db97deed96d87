"""An error of a TOML file names its place by the keys that lead to it."""

from __future__ import annotations

import pytest

from docmill.worker.errors import FieldPath, put_place


@pytest.mark.parametrize(
    ("place", "sentence", "said"),
    [
        (
            ("step", 1, "model"),
            "model must be a text in quotes, not 3",
            "step[2].model must be a text in quotes, not 3",
        ),
        (("step", 1, "prompt"), "prompt: {text} is missing", "step[2].prompt: {text} is missing"),
        (("step", 0), "a step needs a name", "step[1]: a step needs a name"),
        (("corpus", "prune"), "prunes are ripe", "corpus.prune: prunes are ripe"),
        (("output",), "output must be a table", "output must be a table"),
        ((), "a pipeline needs a name", "a pipeline needs a name"),
        (("a b", "c.d", "é", "", "\n"), "it is wrong", r'"a b"."c.d"."é".""."\n": it is wrong'),
        (("openai:small",), "openai:small has no input", '"openai:small" has no input'),
    ],
)
def test_a_sentence_begins_with_its_place_and_names_the_key_once(place: FieldPath, sentence: str, said: str) -> None:
    assert put_place(place, sentence) == said
