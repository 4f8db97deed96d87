"""Sentences of a text, in every script, with their places."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.tasks.windows.paragraphs import paragraphs
from docmill.tasks.windows.sentences import between_sentences, holding, sentences, translated_sentences

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
    "> ",
    "`a. B`",
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


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Dr. Ada met J. R. Tolkien, e.g. in Rome. He left!", "Dr. Ada met J. R. Tolkien, e.g. in Rome.|He left!"),
        ("Run `make. All` first. See https://a.org/x?y. Go!", "Run `make. All` first.|See https://a.org/x?y.|Go!"),
        ("> One is. And\n> two are.\n> Three.\n> four.", "One is.|And\n> two are.|Three.\n> four."),
        ("- One. Two\n  more. Three.\n", "One.|Two\n  more.|Three."),
        ("東京は首都です。「そうです！」人口は？", "東京は首都です。|「そうです！」|人口は？"),
        ("สวัสดีครับ ผมชื่อนัท", "สวัสดีครับ ผมชื่อนัท"),
        ("Yes. ... !\n\n```\na. B\n```\n", "Yes.|=...|=!"),
        ("See: `a. B`\n\n`a. B`", "See: `a. B`|=`a. B`"),
    ],
)  # fmt: skip
def test_a_translation_by_sentences_cuts_no_code_quote_sign_or_abbreviation(text: str, wanted: str) -> None:
    found = translated_sentences(text)
    assert "|".join("=" * one.verbatim + text[one.start : one.end] for one in found) == wanted


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=12).map("".join))
def test_the_sentences_to_translate_are_the_paragraphs_without_what_stands_between(text: str) -> None:
    stretches = translated_sentences(text)
    assert all(one.end <= other.start for one, other in pairwise(stretches))
    for paragraph in paragraphs(text):
        inside = stretches[holding(stretches, paragraph)]
        assert (inside[0].start, inside[-1].end) == (paragraph.start, paragraph.end)
        for one, other in pairwise(inside):
            assert not text[one.end : other.start].strip(" \t\u3000>") or text[one.end : other.start].isspace()


@pytest.mark.parametrize(
    ("gap", "before", "wanted"),
    [
        (" ", "One.", " "),
        ("", "Tokyo is the capital.", " "),
        (" ", "東京は首都です。", ""),
        ("", "「そうです！」", ""),
        ("\n  ", "東京は首都です。", "\n  "),
        ("", "", ""),
        ("  ", "One.", "  "),
    ],
)
def test_the_space_between_sentences_is_that_of_the_output_s_script(gap: str, before: str, wanted: str) -> None:
    assert between_sentences(gap, before) == wanted
