"""The check for names, with names of every form between words of several scripts."""

from __future__ import annotations

import pytest

from tasks.checks import Checks, Context, Finding


def found(given: str, output: str, context: Context | None = None) -> list[Finding]:
    return Checks(("names_changed",), context or Context("fr", "en")).findings(given, output)


# Names of every form, in the middle of a sentence in Latin, Cyrillic, Arabic and Han letters.
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
@pytest.mark.parametrize(("given", "output"), SENTENCES)
def test_a_name_is_kept_or_missed(given: str, output: str, name: str) -> None:
    given = given.replace("{}", name)
    assert found(given, output.replace("{}", name)) == []
    (lost,) = found(given, output.replace("{}", "there"))
    assert lost.evidence == f"“{name}” of the input is not in the output."
    assert lost.start is None


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_the_place_of_another_is_found_with_its_place(name: str) -> None:
    output = f"The file {name} is read by all."
    findings = found("Le fichier OpenVrml3 est lu par tous.", output)
    assert name in {output[one.start : one.end] for one in findings if one.start is not None}


def test_a_capitalised_word_counts_where_it_replaces_another() -> None:
    given = "Un greffon pour Debian et le tableur Gnumeric."
    assert found(given, "A plugin for Debian and the spreadsheet Gnumeric.") == []
    (finding,) = found(given, "A plugin for Debian and the spreadsheet Photoshop.")
    assert finding.evidence == "“Photoshop” is not in the input, which has “Gnumeric” there."
    assert found(given, "A plugin for Debian and its Spreadsheet called Gnumeric.") == []


def test_names_that_languages_spell_in_their_own_ways_are_no_change() -> None:
    assert found("Analyse de séquences ADN en Espagne", "Analysis of DNA sequences in Spain") == []
    assert found("Un CD-ROM pour Linux", "CDROMs for Linux") == []
    german = Context("de", "en")
    assert found("das Paket und die Datei von Debian", "the package and the File of Debian", german) == []


def test_a_summary_may_leave_names_out_and_add_none() -> None:
    context = Context(shortened=True)
    given = "A plugin of LibreOffice for ISO9660 images, see https://example.org."
    assert found(given, "A plugin for images", context) == []
    assert [one.evidence for one in found(given, "A plugin of OpenOffice", context)] == [
        "“OpenOffice” is not in the input."
    ]


GIVEN = "A reader for pages of manuals. It shows them in colours and runs in a window, as Firefox does."


@pytest.mark.parametrize(
    ("given", "output", "invented"),
    [
        (GIVEN, "reader for manuals in Python with colours", ["Python"]),
        (GIVEN, "reader for manuals beside Firefox", []),
        (GIVEN, "Coloured reader for manuals", []),  # the beginning of a sentence
        (GIVEN, "reader for the Coloured Manual Collection", []),  # a title, in words of its own
        (GIVEN, "reader of Linux-Manuals", []),
        (  # German nouns
            "Ein Programm, das die Seiten von Handbüchern in Farben und in einem Fenster zeigt, wie Leser es mögen.",
            "Programm für Handbücher in der Anzeige",
            [],
        ),
    ],
)
def test_a_summary_adds_no_capitalised_word_that_stands_alone(given: str, output: str, invented: list[str]) -> None:
    flagged = found(given, output, Context(shortened=True, same_language=True))
    assert [output[one.start : one.end] for one in flagged] == invented


def test_months_and_days_are_no_names() -> None:
    given = "Les rapports viennent chaque Vendredi, ou au moins en Juillet, pour tous."
    output = "The reports come every Friday, or at least in July, to all."
    assert found(given, output) == []
    assert found(given, output.replace("Friday", "Debian")) != []


def test_a_name_counts_after_an_elision_and_in_brackets() -> None:
    assert found("Le format d'Apple pour la musique.", "The format of Photoshop for music.")
    assert found("Un éditeur libre (Gnumeric) pour tous.", "A free editor (Photoshop) for all.")
    assert found("Le format d'Apple pour la musique.", "The format of Apple for music.") == []


def test_countries_languages_and_acronyms_are_named_as_each_language_does() -> None:
    assert found("Une université des Pays-Bas en Europe.", "A university in the Netherlands of Europe.") == []
    assert found("Il existe en Inde et en Pologne.", "It exists in India and in Poland.") == []
    assert found("Les couleurs RVB et CMJN sont lues.", "The colours RGB and CMYK are read.") == []
    assert found("Ce fichier ne doit PAS changer.", "This file must NOT change.") == []
    (finding,) = found("Il est lu par Gnumeric ici.", "It is read by Poland here.")
    assert finding.evidence == "“Poland” is not in the input, which has “Gnumeric” there."


def test_a_word_of_a_million_letters_is_read_through_once() -> None:
    for unit in ("ACGT", "acgt", "aCg_", "12A"):
        found("The sequence is " + unit * 300_000, "La séquence est longue.")  # else it would take for ever
