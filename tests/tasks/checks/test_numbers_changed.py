"""Changed numbers are noticed, however a language writes them."""

from __future__ import annotations

import pytest

from docmill.tasks.checks import Checks, Context, Finding


def find_changes(source: str, output: str, context: Context | None = None) -> list[Finding]:
    return Checks(("numbers_changed",), context or Context("fr", "en")).findings(source, output)


SAME = [
    ("Il lit 1 234 567 octets en 2,5 s.", "It reads 1,234,567 bytes in 2.5 s."),
    ("Il connaît trois formats et vingt-deux filtres.", "It knows 3 formats and 22 filters."),
    ("Il a 8 niveaux, dont deux faciles.", "It has eight levels, of which two are easy."),
    ("Les années 90", "The 1990s"),
    ("Publié le 05/06/2021", "Published on 5.6.2021"),
    ("La version 2.6.18 de libfoo2", "Version 2.6.18 of libfoo2"),
    ("Sans nombre", "Without numbers"),
]


@pytest.mark.parametrize(("source", "output"), SAME)
def test_a_number_may_be_written_in_many_ways(source: str, output: str) -> None:
    assert find_changes(source, output) == []
    assert find_changes(output, source, Context("en", "fr")) == []


CHANGED = [
    ("Il lit 1 234 567 octets.", "It reads 1,234,576 bytes.", "1,234,576", "1 234 567"),
    ("Il connaît 30 formats.", "It knows 13 formats.", "13", "30"),
    ("La norme ISO 8859-15", "The standard ISO 8859-51", "51", "15"),
    ("В 2019 году вышла версия 45.", "Version 54 came in 2019.", "54", "45"),
    ("الإصدار ٤٥ صدر عام ٢٠١٩", "Version 54 came in 2019.", "54", "٤٥"),
]


@pytest.mark.parametrize(("source", "output", "new", "old"), CHANGED)
def test_a_changed_number_is_found_in_both_texts(source: str, output: str, new: str, old: str) -> None:
    invented, lost = find_changes(source, output, Context(None, "en"))
    assert invented.evidence == f"{new} is not in the input."
    assert output[invented.start : invented.end] == new
    assert (lost.evidence, lost.start) == (f"{old} of the input is not in the output.", None)


def test_a_summary_may_leave_numbers_out_and_add_none() -> None:
    context = Context(shortened=True)
    source = "It reads 35 formats and writes 12 of them, at 600 dpi."
    assert find_changes(source, "It reads 35 formats.", context) == []
    (finding,) = find_changes(source, "It reads 53 formats.", context)
    assert finding.evidence == "53 is not in the input."


def test_a_unit_that_changes_is_found_and_bytes_may_be_octets() -> None:
    assert find_changes("Il faut 20 Mo et 5 %.", "It needs 20 MB and 5%.") == []
    assert find_changes("1," * 50_000 + "x", "1," * 50_000 + "x") == []
    (finding,) = find_changes("Il faut 20 Mo à 30 kHz.", "It needs 20 MB at 30 MHz.")
    assert finding.evidence == "30 MHz has another unit in the input: kHz."
    assert [finding.evidence for finding in find_changes("Il faut 20 Mo.", "It needs 20 GB.")] == [
        "20 GB has another unit in the input: MB."
    ]
