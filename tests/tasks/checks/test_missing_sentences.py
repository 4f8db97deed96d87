"""The check for missing sentences: each is dropped in turn, in several languages."""

from __future__ import annotations

import pytest

from docmill.tasks.checks import Checks, Context, Finding

# The same five sentences in six languages, of lengths as different as sentences have.
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


def found(given: str, output: str, context: Context) -> list[Finding]:
    return Checks(("missing_sentences",), context).findings(given, output)


@pytest.mark.parametrize("source", ["en", "fr", "ru"])
@pytest.mark.parametrize("target", TEXTS)
def test_a_long_sentence_that_is_dropped_is_named(source: str, target: str) -> None:
    given, context = GLUE.get(source, " ").join(TEXTS[source]), Context(source, target)
    glue = GLUE.get(target, " ")
    assert found(given, glue.join(TEXTS[target]), context) == []
    for place in (1, 3):
        left = [*TEXTS[target][:place], *TEXTS[target][place + 1 :]]
        named = [one.evidence for one in found(given, glue.join(left), context)]
        assert any(one.startswith(f"Sentence {place + 1} of") for one in named), (place, named)


def test_sentences_that_are_merged_or_split_are_not_missing() -> None:
    given = " ".join(TEXTS["fr"])
    merged = given.replace("installer. Un", "installer, et un")
    output = " ".join(ENGLISH)
    context = Context("fr", "en")
    assert found(merged, output, context) == []
    assert found(given, output.replace("install. A", "install, and a"), context) == []
    assert found(given, output.replace("packages, which are", "packages. They are"), context) == []


def test_a_text_of_very_many_sentences_is_not_aligned() -> None:
    given, output = " ".join(TEXTS["fr"] * 21), " ".join(ENGLISH * 20)
    assert found(given, output, Context("fr", "en")) == []


def test_an_output_without_sentences_is_empty_and_not_short() -> None:
    assert found(" ".join(TEXTS["fr"]), "", Context("fr", "en")) == []


def test_a_sentence_is_missing_where_another_was_split_and_the_text_is_short() -> None:
    context = Context("en", "fr")
    split = [
        TEXTS["fr"][0],
        "Il comprend plus de 59000 paquets.",
        "Ils se trouvent dans un format facile à installer.",
    ]
    shorter = " ".join([*split, TEXTS["fr"][2], TEXTS["fr"][4]])
    (finding,) = found(" ".join(ENGLISH), shorter, context)
    assert finding.evidence.startswith("Sentence 4 of")
    assert found(" ".join([*ENGLISH[:3], ENGLISH[4]]), shorter, context) == []
