"""A translation keeps the shape of Markdown and plain text, as markdown-it-py parses both."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from docmill.tasks.windows.paragraphs import holding, paragraphs, sentences, translated_sentences
from tests.tasks.kinds.test_translate import translate_with

WORD = re.compile(r"[a-z]+")


def translate(text: str, ending: str = "", *, by_sentence: bool = False) -> str:
    """Return a text after a model that writes words in capitals and adds an ending to each window."""
    outcome = translate_with(lambda piece: WORD.sub(lambda word: word[0].upper(), piece) + ending, text, by_sentence)
    assert outcome.text is not None
    return outcome.text


def shape(text: str) -> list[tuple[object, ...]]:
    """Return the blocks of a Markdown text, with the content of code and without the words of prose."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    return [
        (token.type, token.level, token.markup, token.info, token.content if token.type == "fence" else "")
        for token in tokens
    ]


WORDS = st.lists(
    st.sampled_from(["alpha", "beta", "gamma", "delta", "end. Then", "end! “Then”"]), min_size=1, max_size=9
).map(" ".join)
CODE = st.lists(
    st.sampled_from(["x = 1;", "# not a heading", "- not an item", "| no | row |", "", "  f(x)"]), min_size=1
)
CELLS = st.lists(WORDS, min_size=2, max_size=2)


def fence(lines: list[str]) -> list[str]:
    return ["```python", *lines, "```"]


def table(rows: list[list[str]]) -> list[str]:
    first, *rest = ["| " + " | ".join(row) + " |" for row in rows]
    return [first, "|---|:--:|", *rest]


def heading(level: int, words: str) -> list[str]:
    return ["#" * level + " " + words]


def indented(blocks: list[list[str]], mark: str, rest: str) -> list[str]:
    """Return the blocks with a mark before their first line and `rest` before the others."""
    lines = [line for number, block in enumerate(blocks) for line in (*([""] if number else []), *block)]
    return [mark + lines[0], *((rest + line).rstrip() for line in lines[1:])]


LEAVES = st.one_of(
    st.lists(WORDS, min_size=1, max_size=3),  # a wrapped paragraph
    st.builds(heading, st.integers(1, 6), WORDS),
    CODE.map(fence),
    st.lists(CELLS, min_size=1, max_size=3).map(table),
    st.just(["***"]),
    WORDS.map(lambda words: [words, "====="]),
)


def nested(blocks: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    several = st.lists(blocks, min_size=1, max_size=3)
    return st.one_of(
        several.map(lambda held: indented(held, "> ", "> ")),
        several.map(lambda held: indented(held, "- ", "  ")),
        several.map(lambda held: indented(held, "1. ", "   ")),
    )


# Deeper nesting is not always kept: a number inside may be taken for prose.
BLOCKS = st.one_of(LEAVES, nested(LEAVES), nested(st.one_of(LEAVES, nested(LEAVES))))
MARKDOWN = st.lists(BLOCKS, min_size=1, max_size=5).map(lambda blocks: "\n".join(indented(blocks, "", "")) + "\n")


@given(MARKDOWN, st.sampled_from(["", " | BAR", "\nLINE"]), st.booleans())
@example("| a | b |\n|---|---|\n| c `x\\|y` | d |\n", " | BAR", False)
@example("> One. *Two\n> three.* Four.\n> - Five\n>   six. `a. B`", "", True)
@example("- 1. ***\n", " | BAR", False)
@example("- > 1. ***\n", " | BAR", False)
@example("- 1. > alpha\n", " | BAR", True)
@example("- - ```\n    one two\n    ```\n", "", False)
def test_a_translation_has_the_blocks_of_its_source(text: str, ending: str, by_sentence: bool) -> None:
    assert shape(translate(text, ending, by_sentence=by_sentence)) == shape(text)


@given(MARKDOWN, st.booleans())
def test_every_word_of_prose_is_translated(text: str, by_sentence: bool) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(translate(text, by_sentence=by_sentence))
    prose = " ".join(token.content for token in tokens if token.type == "inline")
    assert not WORD.search(prose)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a | b\n--|--\nc \\| d | `e|f`", ["a", "b", "c \\| d", "`e", "f`"]),
        ("- [ ] open\n- [x] done", ["open", "done"]),
        ("Name: value\nSize: much\n", ["Name: value", "Size: much"]),
        ("See:\n\n    make && ./run\n\nDone.", ["See:", "Done."]),
        ("<p>One <b>two</b></p>\n<!-- no -->\n<p>three</p>", ["One <b>two</b>", "three"]),
        ("---\ntitle: x\n---\n\nText", ["Text"]),
        ("---\r\ntitle: x\r\n---\r\n\r\nText", ["Text"]),
        ("---\r\n" + "title: x\r\n" * 40 + "- item\r\n> quoted", ["title: x"] * 40 + ["item", "quoted"]),
        ("[a]: https://example.org/\n\nText", ["Text"]),
        ("Text[^1]\n\n[^1]: A note here", ["Text[^1]", "A note here"]),
        ("One\ntwo.\n\nThree.", ["One\ntwo.", "Three."]),
        (
            "Fonctions sont :\n- la réplication de\n  données ;\n- une grande vitesse.",
            ["Fonctions sont :", "la réplication de\n  données ;", "une grande vitesse."],
        ),
        (
            "Fournit :\n–\u00a0un premier\nélément ;\n–\u00a0un autre.\nPour finir, rien.",
            ["Fournit :", "un premier\nélément ;", "un autre.", "Pour finir, rien."],
        ),
        ("1. One\n2) Two\n(3) Three", ["One", "Two", "Three"]),
        ("  Indented.\n  Again.\n", ["Indented.", "Again."]),
        ("Text\r\nwrapped.\r\n\r\n* Item\r\n", ["Text\r\nwrapped.", "Item"]),
        ("3.5 metres is not an item\n- nor-\nmal", ["3.5 metres is not an item", "nor-\nmal"]),
    ],
)
def test_prose_is_found_and_markup_is_left_out(text: str, expected: list[str]) -> None:
    assert [text[section.start : section.end] for section in paragraphs(text)] == expected


@pytest.mark.parametrize("text", ["https://example.org/a?b=c", "`make install`", "![](picture.png)"])
def test_a_paragraph_without_prose_is_copied(text: str) -> None:
    assert [section.verbatim for section in paragraphs(text)] == [True]


PIECES = [
    "Dr. ", "No end", "wait... ", 'said "no." ', "J. ", "。", "東京です", "यह है।", "؟ ", "\n", "\n\n", "> ", "`a. B`",
    "# ", "- ", "!", " ", "```\n",
]  # fmt: skip


def split_sentences(text: str) -> list[str]:
    return [text[sentence.start : sentence.end] for sentence in sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
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
        ("สวัสดีครับ ผมชื่อนัท", ["สวัสดีครับ ผมชื่อนัท"]),
        ("One" + "." * 90_000 + "2 Two... Three.", ["One" + "." * 90_000 + "2 Two...", "Three."]),
    ],
)
def test_sentences_end_where_their_script_ends_them(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=12).map("".join))
def test_sentences_are_in_order_hold_words_and_have_no_white_space_at_their_ends(text: str) -> None:
    stretches = sentences(text)
    end = 0
    for place, stretch in enumerate(stretches):
        assert end <= stretch.start < stretch.end <= len(text)
        assert text[stretch.start : stretch.end] == text[stretch.start : stretch.end].strip()
        assert holding(stretches, stretch) == slice(place, place + 1)
        end = stretch.end


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Run `make. All` first. See https://a.org/x?y. Go!", "Run `make. All` first.|See https://a.org/x?y.|Go!"),
        ("> One is. And\n> two are.\n> Three.\n> four.", "One is.|And\n> two are.|Three.\n> four."),
        ("- One. Two\n  more. Three.\n", "One.|Two\n  more.|Three."),
        ("東京は首都です。「そうです！」人口は？", "東京は首都です。|「そうです！」|人口は？"),
        ("Yes. ... !\n\n```\na. B\n```\n", "Yes.|=...|=!"),
        ("See: `a. B`\n\n`a. B`", "See: `a. B`|=`a. B`"),
    ],
)  # fmt: skip
def test_a_translation_by_sentences_cuts_no_code_quote_sign_or_abbreviation(text: str, expected: str) -> None:
    stretches = translated_sentences(text)
    assert "|".join("=" * stretch.verbatim + text[stretch.start : stretch.end] for stretch in stretches) == expected


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=12).map("".join))
def test_the_sentences_to_translate_are_the_paragraphs_without_what_stands_between(text: str) -> None:
    stretches = translated_sentences(text)
    assert all(stretch.end <= next_stretch.start for stretch, next_stretch in pairwise(stretches))
    for paragraph in paragraphs(text):
        inside = stretches[holding(stretches, paragraph)]
        assert (inside[0].start, inside[-1].end) == (paragraph.start, paragraph.end)
        for stretch, next_stretch in pairwise(inside):
            between = text[stretch.end : next_stretch.start]
            assert between.isspace() or not between.strip(" \t\u3000>")
