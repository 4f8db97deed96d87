"""Sentences of a text, in every script, with their places."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.windows.sentences import holding, sentences

PIECES = [
    "Dr. ",
    "No end",
    "wait... ",
    'said "no." ',
    "J. ",
    "。",
    "東京です",
    "यह है।",
    "؟ ",
    "\n",
    "\n\n",
    "# ",
    "- ",
    "!",
    " ",
    "```\n",
]


def found(text: str) -> list[str]:
    return [text[one.start : one.end] for one in sentences(text)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "Dr. Ada met J. R. Tolkien, e.g. in Rome. He left!",
            ["Dr. Ada met J. R. Tolkien, e.g. in Rome.", "He left!"],
        ),
        (
            '"Why?" she asked. It cost 3.5 francs... and more.',
            ['"Why?" she asked.', "It cost 3.5 francs... and more."],
        ),
        ("He said “Go.” *It was so.* ¿Qué? No.", ["He said “Go.”", "*It was so.*", "¿Qué?", "No."]),
        ("# Head\n\nOne\nline. Two\n\n- item\n\n```\ncode. Here\n```\n", ["Head", "One\nline.", "Two", "item"]),
        ("東京は首都です。「そうです！」人口は？", ["東京は首都です。", "「そうです！」", "人口は？"]),
        ("हिन्दी भाषा है। दूसरा वाक्य।", ["हिन्दी भाषा है।", "दूसरा वाक्य।"]),
        ("ما اسمك؟ اسمي علي.", ["ما اسمك؟", "اسمي علي."]),
        ("สวัสดีครับ ผมชื่อนัท", ["สวัสดีครับ ผมชื่อนัท"]),
        ("--- ...", []),
    ],
)
def test_sentences_end_where_their_script_ends_them(text: str, wanted: list[str]) -> None:
    assert found(text) == wanted


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=12).map("".join))
def test_sentences_are_in_order_hold_words_and_have_no_white_space_at_their_ends(text: str) -> None:
    stretches = sentences(text)
    end = 0
    for place, one in enumerate(stretches):
        assert end <= one.start < one.end <= len(text)
        assert text[one.start : one.end] == text[one.start : one.end].strip()
        assert holding(stretches, one) == slice(place, place + 1)
        end = one.end
