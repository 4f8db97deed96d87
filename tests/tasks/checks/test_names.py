"""Names as they are read from texts, and looked up in others."""

from __future__ import annotations

import pytest

from docmill.tasks.checks.names import Form, Text, are_alike, exact, named


def read(text: str, besides: frozenset[str] = frozenset()) -> dict[str, Form]:
    return {name.written: name.form for name in named(text, besides, lambda _word: True)}


def test_names_have_forms() -> None:
    text = "Reading LibreOffice files of Debian needs GTK2 and the XML parser of d'Alembert."
    assert read(text) == {
        "Reading": Form.INITIAL,
        "LibreOffice": Form.FORMED,
        "Debian": Form.CAPITAL,
        "GTK2": Form.FORMED,
        "XML": Form.ACRONYM,
        "Alembert": Form.CAPITAL,
    }
    assert [name.written for name in exact("See https://example.org/a, or --help of /etc/apt/sources.")] == [
        "https://example.org/a",
        "--help",
        "/etc/apt/sources",
    ]


def test_names_of_the_other_text_are_left_out() -> None:
    assert read("Reading files of Debian.", Text("Debian reads").written) == {"Reading": Form.INITIAL}
    assert list(named("Reading files.", frozenset(), lambda word: word != "Reading")) == []


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("dna", "adn", True),
        ("dna", "rna", False),
        ("norwegian", "norvegien", True),
        ("shostakovitch", "chostakovitch", True),
        ("gnumeric", "photoshop", False),
    ],
)
def test_forms_of_a_name_are_alike(one: str, other: str, alike: bool) -> None:
    assert are_alike(one, other) is alike
    assert are_alike(other, one) is alike


def test_an_acronym_is_spelled_out_by_words_in_either_order() -> None:
    assert Text("Des Systèmes d'Information Géographique pour tous.").spells_out("gis")
    assert Text("The Document Object Model is read.").spells_out("dom")
    assert not Text("The document has no model.").spells_out("dom")
