"""Marks on what differs between an input and an output."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.tasks.checks import Finding
from docmill.worker.web.marks import TextPart, excerpt, mark_findings, marked, remark


def _marks(source: str, output: str) -> tuple[list[str], list[str]]:
    source_parts, output_parts = marked(source, output)
    return [part.text for part in source_parts if part.marked], [part.text for part in output_parts if part.marked]


@pytest.mark.parametrize(
    ("source", "output", "marks"),
    [
        # One language: the output's new words.
        ("The cat sat on the mat.", "The cat sat on a dog.", ([], ["a", "dog"])),
        ("Call Anna at 030 1234.", "Call [PERSON] at 030 1234.", ([], ["PERSON"])),
        # Two languages: what no translation changes.
        ("Envoi de messages RFC 3164 et RFC 5424.", "It sends RFC 31 and RFC 5464 messages.",
         (["3164", "5424"], ["31", "5464"])),
        ("Voir https://a.org/x pour libfoo2.", "See http://a.org/x on libfoo2.", (["https://a.org/x"], ["http://a.org/x"])),
        ("Un démon évolué de données.", "An advanced daemon for data.", ([], [])),
        ("Un client de l'API d’Android.", "It is the Android API.", ([], [])),
        ("PostgreSQL est là.", "MySQL is there.", (["PostgreSQL"], ["MySQL"])),
        # Without spaces between words.
        ("The year 1999 was good.", "1998年はとても良い年でした", (["1999"], ["1998年はとても良い年でした"])),
        ("", "", ([], [])),
    ],
)  # fmt: skip
def test_words_of_only_one_text_are_marked(source: str, output: str, marks: tuple[list[str], list[str]]) -> None:
    assert _marks(source, output) == marks


@given(st.text(), st.text())
def test_the_parts_are_the_texts(source: str, output: str) -> None:
    source_parts, output_parts = marked(source, output)
    assert "".join(part.text for part in source_parts) == source
    assert "".join(part.text for part in output_parts) == output


def test_the_places_of_findings_are_marked_in_both_texts() -> None:
    findings = [
        Finding("x", "in both", 4, 8, lost=(0, 3)),
        Finding("x", "overlaps", 6, 11),
        Finding("x", "within", 7, 8),
        Finding("y", "no place"),
    ]
    parts = mark_findings("old words", "new words here", findings)
    assert parts is not None
    assert parts[0] == [TextPart("old", True), TextPart(" words", False)]
    assert [part.text for part in parts[1] if part.marked] == ["word", "s h"]
    assert "".join(part.text for part in parts[1]) == "new words here"
    assert mark_findings("a", "b", [Finding("y", "no place")]) is None


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (2, "..M....... … (20 more characters)"),
        (15, "(13 characters before) … ..M....... … (7 more characters)"),
        (29, "(20 characters before) … .........M"),
        (None, ".......... … (20 more characters)"),
    ],
)
def test_an_excerpt_has_the_first_mark_and_says_how_much_is_left_out(start: int | None, expected: str) -> None:
    text = "." * 30
    parts = [TextPart(text, False)]
    if start is not None:
        parts = [TextPart(text[:start], False), TextPart("M", True), TextPart(text[start + 1 :], False)]
    assert "".join(part.text for part in excerpt(parts, 10)) == expected
    assert excerpt(parts, 30) == [part for part in parts if part.text]


def test_a_flag_is_explained_by_its_findings_or_its_meaning() -> None:
    findings = [f"{n} is not in the input." for n in range(6)]
    assert remark("numbers_changed", findings) == (True, f"{' '.join(findings[:4])} And 2 more.")
    assert remark("low_confidence") == (True, "The model found its own words improbable.")
    assert remark("language:fr") == (False, "The language that was found: fr.")
    assert remark("of another release") == (False, "Of another release.")
