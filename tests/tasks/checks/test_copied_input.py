"""The check for outputs that copy their input, on real lines in several scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from docmill.tasks.checks import Checks, Context, Finding

TEXTS = Path(__file__).parents[1] / "texts"
COPIES = [
    "Ce paquet fournit une bibliothèque pour analyser des fichiers.",
    "Этот пакет содержит библиотеку для разбора файлов.",
    "यह पैकेज फ़ाइलों को पढ़ने के लिए एक पुस्तकालय प्रदान करता है।",
    "このパッケージはファイルを解析するライブラリを提供します。",
]


def found(given: str, output: str, *, shortened: bool = False) -> list[Finding]:
    return Checks(("copied_input",), Context(shortened=shortened)).findings(given, output)


@pytest.mark.parametrize("line", COPIES)
def test_a_copy_is_found_with_its_place_and_another_text_is_not(line: str) -> None:
    (finding,) = found(line, f"Well: {line}")
    assert finding.flag == "copied_input"
    assert finding.start == len("Well: ")
    assert f"Well: {line}"[finding.start : finding.end] in line
    assert found(line, "This package provides a library to parse files.") == []


def test_half_a_translation_that_is_copied_is_found() -> None:
    given = "Ce paquet fournit une bibliothèque. Il est petit et rapide pour tous les fichiers."
    assert found(given, "This package provides a library. Il est petit et rapide pour tous les fichiers.")
    assert found(given, "This package provides a library. It is petit et rapide pour all files of any kind.") == []


def test_names_and_code_may_be_copied() -> None:
    names = "LibreOffice Impress, Graphviz XDot, GNOME Shell, Xfce Panel, KDE Plasma, python3-numpy, libfoo_2"
    assert found(f"Contient {names}", f"Contains {names}") == []


def test_a_summary_may_quote_its_text_and_not_be_all_of_it() -> None:
    texts = [json.loads(line)["text"] for line in (TEXTS / "english.jsonl").read_text().splitlines()]
    long = [text for text in texts if len(text.split()) > 12][:20]
    assert len(long) > 10
    for text in long:
        assert found(text, text, shortened=True), text
        longer = f"{text} It is written in a language of which we have not heard before, and which is fast."
        assert found(longer, text, shortened=True) == []
