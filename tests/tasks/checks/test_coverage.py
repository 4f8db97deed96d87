"""Missing sentences, copies and unlikely lengths are noticed in several languages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from docmill.tasks.checks import Checks, Context, Finding

# The same five sentences, short and long, in four languages.
ENGLISH = [
    "Debian is an operating system.",
    "It comes with more than 59000 packages, which are compiled programs in a format that is easy to install.",
    "A manager named APT keeps them up to date.",
    "Everything in it is free, although people may charge money for making copies of it or for teaching its use.",
    "Questions go to the mailing lists.",
]
TEXTS = {
    "en": ENGLISH,
    "fr": [
        "Debian est un système d'exploitation.",
        "Il comprend plus de 59000 paquets, qui sont des programmes compilés dans un format qui les rend faciles à "
        "installer.",
        "Un gestionnaire nommé APT les tient à jour.",
        "Tout y est libre, même si l'on peut demander de l'argent pour des copies ou pour enseigner son usage.",
        "Les questions vont aux listes de diffusion.",
    ],
    "ru": [
        "Debian - это операционная система.",
        "В неё входит более 59000 пакетов, то есть скомпилированных программ в формате, который облегчает установку.",
        "Менеджер по имени APT обновляет их.",
        "Всё в ней свободно, хотя за изготовление её копий или за обучение работе с ней можно брать деньги.",
        "Вопросы задают в списках рассылки.",
    ],
    "ja": [
        "Debianはオペレーティングシステムです。",
        "59000以上のパッケージが付属しており、それらは簡単にインストールできる形式でコンパイルされたプログラムです。",
        "APTという名前のマネージャがそれらを最新に保ちます。",
        "その中のすべては自由ですが、コピーを作ることや使い方を教えることに対してお金を請求することができます。",
        "質問はメーリングリストへ送ります。",
    ],
}
GLUE = {"ja": ""}


def find_missing(source: str, output: str, context: Context) -> list[Finding]:
    return Checks(("missing_sentences",), context).findings(source, output)


@pytest.mark.parametrize("source", ["en", "fr", "ru"])
@pytest.mark.parametrize("target", TEXTS)
def test_a_long_sentence_that_is_dropped_is_named(source: str, target: str) -> None:
    source, context = GLUE.get(source, " ").join(TEXTS[source]), Context(source, target)
    glue = GLUE.get(target, " ")
    assert find_missing(source, glue.join(TEXTS[target]), context) == []
    for place in (1, 3):
        left = [*TEXTS[target][:place], *TEXTS[target][place + 1 :]]
        named = [evidence.evidence for evidence in find_missing(source, glue.join(left), context)]
        assert any(evidence.startswith(f"Sentence {place + 1} of") for evidence in named), (place, named)


def test_sentences_that_are_merged_or_split_are_not_missing() -> None:
    source = " ".join(TEXTS["fr"])
    merged = source.replace("installer. Un", "installer, et un")
    output = " ".join(ENGLISH)
    context = Context("fr", "en")
    assert find_missing(merged, output, context) == []
    assert find_missing(source, output.replace("install. A", "install, and a"), context) == []
    assert find_missing(source, output.replace("packages, which are", "packages. They are"), context) == []


FOLDER = Path(__file__).parents[1] / "texts"
COPIES = [
    "Ce paquet fournit une bibliothèque pour analyser des fichiers.",
    "Этот пакет содержит библиотеку для разбора файлов.",
    "यह पैकेज फ़ाइलों को पढ़ने के लिए एक पुस्तकालय प्रदान करता है।",
    "このパッケージはファイルを解析するライブラリを提供します。",
]


def find_copies(source: str, output: str, *, shortened: bool = False) -> list[Finding]:
    return Checks(("copied_input",), Context(shortened=shortened)).findings(source, output)


@pytest.mark.parametrize("line", COPIES)
def test_a_copy_is_found_with_its_place_and_another_text_is_not(line: str) -> None:
    (finding,) = find_copies(line, f"Well: {line}")
    assert finding.flag == "copied_input"
    assert finding.start == len("Well: ")
    assert f"Well: {line}"[finding.start : finding.end] in line
    assert find_copies(line, "This package provides a library to parse files.") == []


def test_names_and_code_may_be_copied() -> None:
    names = "LibreOffice Impress, Graphviz XDot, GNOME Shell, Xfce Panel, KDE Plasma, python3-numpy, libfoo_2"
    assert find_copies(f"Contient {names}", f"Contains {names}") == []


def test_a_summary_may_quote_its_text_and_not_be_all_of_it() -> None:
    texts = [json.loads(line)["text"] for line in (FOLDER / "english.jsonl").read_text().splitlines()]
    long = [text for text in texts if len(text.split()) > 12][:20]
    assert len(long) > 10
    for text in long:
        assert find_copies(text, text, shortened=True), text
        longer = f"{text} It is written in a language of which we have not heard before, and which is fast."
        assert find_copies(longer, text, shortened=True) == []


FRENCH = "Ce paquet fournit une bibliothèque pour analyser des fichiers, et un programme pour les écrire."
PAIRS = [
    (FRENCH, "This package provides a library to parse files, and a program to write them."),
    ("このパッケージはファイルを解析するライブラリと、それを書き出すプログラムを提供します。", FRENCH),
    (FRENCH, "该软件包提供一个用于解析文件的库，以及一个用于写入文件的程序。"),
    ("تحتوي هذه الحزمة على مكتبة لتحليل الملفات وبرنامج لكتابتها.", FRENCH),
]


def find_unlikely_lengths(source: str, output: str, *, shortened: bool = False) -> list[Finding]:
    return Checks(("length_ratio",), Context(shortened=shortened)).findings(source, output)


@pytest.mark.parametrize(("source", "output"), PAIRS)
def test_a_translation_is_about_as_long_as_its_text(source: str, output: str) -> None:
    assert find_unlikely_lengths(source, output) == []
    assert "of the length" in find_unlikely_lengths(source, output[: len(output) // 4])[0].evidence
    assert "times as long" in find_unlikely_lengths(source, output * 4)[0].evidence


def test_a_summary_is_shorter_than_its_text() -> None:
    assert find_unlikely_lengths(FRENCH, "Une bibliothèque pour des fichiers.", shortened=True) == []
    assert find_unlikely_lengths(FRENCH, "Une bibliothèque pour des fichiers. " * 4, shortened=True)
