"""Marks on what differs between an input and an output."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.reports.marks import marked


def _marks(source: str, output: str) -> tuple[list[str], list[str]]:
    before, after = marked(source, output)
    return [part.text for part in before if part.marked], [part.text for part in after if part.marked]


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
def test_what_stands_in_one_text_only_is_marked(source: str, output: str, marks: tuple[list[str], list[str]]) -> None:
    assert _marks(source, output) == marks


@given(st.text(), st.text())
def test_the_parts_are_the_texts(source: str, output: str) -> None:
    before, after = marked(source, output)
    assert "".join(part.text for part in before) == source
    assert "".join(part.text for part in after) == output
