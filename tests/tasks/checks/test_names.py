"""Names are read from a text, and missing or invented names are noticed in another."""

from __future__ import annotations

import pytest

from docmill.tasks.checks import Checks, Context, Finding
from docmill.tasks.checks.names import are_alike, find_exact_names, find_names


def read_names(text: str, besides: frozenset[str] = frozenset()) -> dict[str, str]:
    return {name.written: name.form for name in find_names(text, besides, lambda _word: True)}


def test_names_have_forms() -> None:
    text = "Reading LibreOffice files of Debian needs GTK2 and the XML parser of d'Alembert."
    assert read_names(text) == {
        "Reading": "initial",
        "LibreOffice": "formed",
        "Debian": "capital",
        "GTK2": "formed",
        "XML": "acronym",
        "Alembert": "capital",
    }
    assert [name.written for name in find_exact_names(f"/{'a-' * 50_000} by a.b@c.de")] == ["a.b@c.de"]


@pytest.mark.parametrize(
    ("name", "other_name", "alike"),
    [
        ("dna", "adn", True),
        ("dna", "rna", False),
        ("norwegian", "norvegien", True),
        ("shostakovitch", "chostakovitch", True),
        ("gnumeric", "photoshop", False),
    ],
)
def test_forms_of_a_name_are_alike(name: str, other_name: str, alike: bool) -> None:
    assert are_alike(name, other_name) is alike
    assert are_alike(other_name, name) is alike


def find_changes(source: str, output: str, context: Context | None = None) -> list[Finding]:
    return Checks(("names_changed",), context or Context("fr", "en")).findings(source, output)


# Names of every form, in sentences of Latin, Cyrillic, Arabic and Japanese letters.
NAMES = [
    "https://example.org/a/b?c=1",
    "www.example.org",
    "someone@example.org",
    "{count}",
    "%(name)s",
    "${HOME}",
    "--no-clobber",
    "/etc/apt/sources.list",
    "word_count",
    "LibreOffice",
    "ISO9660",
]
SENTENCES = [
    ("Le fichier {} est lu par tous.", "The file {} is read by all."),
    ("Файл {} читают все.", "The file {} is read by all."),
    ("الملف {} يقرأه الجميع.", "The file {} is read by all."),
    ("ファイル {} は全員が読みます。", "The file {} is read by all."),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("source", "output"), SENTENCES)
def test_a_name_is_kept_or_missed(source: str, output: str, name: str) -> None:
    source = source.replace("{}", name)
    assert find_changes(source, output.replace("{}", name)) == []
    (lost,) = find_changes(source, output.replace("{}", "there"))
    assert lost.evidence == f"“{name}” of the input is not in the output."
    assert lost.start is None


def test_a_summary_may_leave_names_out_and_add_none() -> None:
    context = Context(shortened=True)
    source = "A plugin of LibreOffice for ISO9660 images, see https://example.org."
    assert find_changes(source, "A plugin for images", context) == []
    assert [finding.evidence for finding in find_changes(source, "A plugin of OpenOffice", context)] == [
        "“OpenOffice” is not in the input."
    ]


GIVEN = "A reader for pages of manuals. It shows them in colours and runs in a window, as Firefox does."
FRENCH = "Un lecteur de pages de manuels. Il les montre en couleurs dans une fenêtre, comme le fait Firefox."


@pytest.mark.parametrize(
    ("source", "output", "invented"),
    [
        (GIVEN, "reader for manuals in Python with colours", ["Python"]),
        (GIVEN, "reader for manuals beside Firefox", []),
        (GIVEN, "Coloured reader for manuals", []),  # the beginning of a sentence
        (GIVEN, "reader for the Coloured Manual Collection", []),  # a title, in words of its own
        (GIVEN, "Gnumeric Collection for manuals", ["Gnumeric"]),
        (GIVEN, "KDE reader for the XFCE Desktop", ["KDE", "XFCE"]),
        (FRENCH, "lecteur de manuels en Python", ["Python"]),
        (FRENCH, "lecteur pour la Grande Collection", []),
        (  # German nouns
            "Ein Programm, das die Seiten von Handbüchern in Farben und in einem Fenster zeigt, wie Leser es mögen.",
            "Programm für Handbücher in der Anzeige",
            [],
        ),
    ],
)
def test_a_summary_adds_no_name(source: str, output: str, invented: list[str]) -> None:
    flagged = find_changes(source, output, Context(shortened=True, same_language=True))
    assert [output[finding.start : finding.end] for finding in flagged] == invented


@pytest.mark.parametrize(
    ("source", "output", "renamed"),
    [
        # Both names begin their sentences.
        (
            "Xdelta est une application pour tous.",
            "Xdelta is an application for all.",
            "Joannou is an application for all.",
        ),
        # The old name is left elsewhere without its number.
        (
            "Le lecteur XMMS pour XMMS2 sert à tous.",
            "The XMMS player for XMMS2 is for all.",
            "The XMMS player for Wipeout is for all.",
        ),
    ],
)
def test_a_name_is_replaced_wherever_it_stands(source: str, output: str, renamed: str) -> None:
    assert find_changes(source, output) == []
    (finding,) = find_changes(source, renamed)
    assert finding.lost is not None
    assert renamed[finding.start : finding.end] not in output


def test_ordinary_english_words_are_no_names() -> None:
    for source, output in [
        (
            "Cette bibliothèque est libre. Dans Debian, elle sert à tous.",
            "Library for all. There is a License of Debian.",
        ),
        ("Il lit les données du Système d'Information.", "It reads the data of the Large Information Directory."),
        ("L'interface graphique est simple.", "The GUI is simple."),
        ("Il lit les données du Grand Annuaire.", "It reads the data of the Name Service Switch."),
    ]:
        assert find_changes(source, output) == []
        assert find_changes(output, source, Context("en", "fr")) == []
