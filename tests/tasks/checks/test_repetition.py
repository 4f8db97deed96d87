"""Repeated sentences, words and characters are noticed in several scripts."""

from __future__ import annotations

import pytest

from docmill.tasks.checks import Checks, Context, Finding
from docmill.tasks.checks.base import span, words

# A sentence in Latin, Cyrillic, Devanagari, Arabic, Japanese and Thai letters.
LINES = [
    "This package provides the shared libraries of a small editor.",
    "Этот пакет содержит разделяемые библиотеки небольшого редактора.",
    "यह पैकेज एक छोटे संपादक के लिए साझा पुस्तकालय प्रदान करता है।",
    "توفر هذه الحزمة المكتبات المشتركة لمحرر صغير.",
    "このパッケージは小さなエディタの共有ライブラリを提供します。",
    "แพ็กเกจนี้มีไลบรารีที่ใช้ร่วมกันของโปรแกรมแก้ไขขนาดเล็ก",
]


def find_loops(output: str, source: str = "", target: str | None = None) -> list[Finding]:
    return Checks(("repetition",), Context(target=target)).findings(source, output)


@pytest.mark.parametrize("line", LINES)
def test_a_sentence_has_no_loop_and_twice_the_same_sentence_has_one(line: str) -> None:
    assert find_loops(line) == []
    (finding,) = find_loops(f"{line} {line}")
    assert finding.flag == "repetition"
    assert "2 times in a row" in finding.evidence
    assert (finding.start, finding.end) == span(f"{line} {line}", 0, 2 * len(words(line)) - 1)


def test_three_dots_are_punctuation_in_japanese_too() -> None:
    assert find_loops("そうですね・・・違うかもしれません。", target="ja") == []


@pytest.mark.parametrize("line", LINES)
def test_words_are_a_loop_the_third_time(line: str) -> None:
    start, end = span(line, 2, 3)
    unit = line[start:end]
    glue = " " if " " in line else ""
    for times in (2, 3, 4, 9):
        looped = line[:start] + glue.join([unit] * times) + line[end:]
        findings = find_loops(looped)
        assert bool(findings) == (times > 2), looped
        for finding in findings:
            assert finding.start == start
            assert looped[finding.start : finding.end] == glue.join([unit] * times)


@pytest.mark.parametrize("line", LINES)
def test_a_loop_of_the_input_is_no_fault_of_the_output(line: str) -> None:
    assert find_loops(f"{line} {line}", source=f"ab cd ef gh ij ab cd ef gh ij {line}") == []
    assert find_loops(f"{line} {line} {line}", source="ab cd ef gh ij ab cd ef gh ij")


def test_a_phrase_that_occurs_more_than_three_times_is_found_between_other_words() -> None:
    between = [f"as large as the {animal}" for animal in ("cat", "dog", "cow", "hen")]
    (finding,) = find_loops(", then ".join(between))
    assert finding.evidence == "“as large as the” occurs 4 times."
    assert find_loops(", then ".join(between[:3])) == []
    source = ", puis ".join(f"aussi grand que le {animal}" for animal in ("chat", "chien", "boeuf", "coq"))
    assert find_loops(", then ".join(between), source) == []


def test_characters_over_and_over_inside_a_word_are_a_loop_unless_copied() -> None:
    (finding,) = find_loops("It prints a haaahahahahahaha at the end.")
    assert "inside a word" in finding.evidence
    assert find_loops("It needs 1000000000 bytes, and prints aaaa.") == []
    assert find_loops("The key is abababababab.", source="La clé est abababababab.") == []


def test_a_doubled_word_counts_in_english_unless_the_input_or_english_doubles_it() -> None:
    (finding,) = find_loops("This is a small small editor.", target="en")
    assert finding.evidence == "“small” stands twice in a row."
    assert find_loops("nous nous connectons", target="fr") == []
    assert find_loops("She had had enough.", target="en") == []
    assert find_loops("A guide to New York York.", source="Un guide de York York.", target="en") == []
