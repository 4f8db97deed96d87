"""The check for lengths, on pairs in several scripts."""

from __future__ import annotations

import pytest

from docmill.tasks.checks import Checks, Context, Finding

FRENCH = "Ce paquet fournit une bibliothèque pour analyser des fichiers, et un programme pour les écrire."
PAIRS = [
    (FRENCH, "This package provides a library to parse files, and a program to write them."),
    ("このパッケージはファイルを解析するライブラリと、それを書き出すプログラムを提供します。", FRENCH),
    (FRENCH, "该软件包提供一个用于解析文件的库，以及一个用于写入文件的程序。"),
    ("تحتوي هذه الحزمة على مكتبة لتحليل الملفات وبرنامج لكتابتها.", FRENCH),
]


def found(given: str, output: str, *, shortened: bool = False) -> list[Finding]:
    return Checks(("length_ratio",), Context(shortened=shortened)).findings(given, output)


@pytest.mark.parametrize(("given", "output"), PAIRS)
def test_a_translation_is_about_as_long_as_its_text(given: str, output: str) -> None:
    assert found(given, output) == []
    assert "of the length" in found(given, output[: len(output) // 4])[0].evidence
    assert "times as long" in found(given, output * 4)[0].evidence


def test_short_texts_may_vary_more() -> None:
    given, output = "Texte de transition ", "Dummy transitional text, which is to be removed. "
    assert found(given, output) == []
    assert found(given * 8, output * 8)


def test_a_summary_is_shorter_than_its_text() -> None:
    assert found(FRENCH, "Une bibliothèque pour des fichiers.", shortened=True) == []
    assert found(FRENCH, "Une bibliothèque pour des fichiers. " * 4, shortened=True)


def test_nothing_has_no_length() -> None:
    assert found(FRENCH, "") == []
    assert found("—", "A dash") == []
