"""The ordinary English words that are told from names."""

from __future__ import annotations

import pytest

from docmill.tasks.checks import english
from docmill.tasks.checks.words import words


@pytest.mark.parametrize("word", ["library", "libraries", "coloured", "reading", "windows", "tools"])
def test_words_and_their_forms_are_ordinary(word: str) -> None:
    assert english.is_ordinary(word)


@pytest.mark.parametrize("word", ["debian", "gnumeric", "firefox", "paris", "spanish", "joannou"])
def test_names_are_not_ordinary(word: str) -> None:
    assert not english.is_ordinary(word)


def test_a_text_is_english_by_its_small_words() -> None:
    assert english.is_english(words("This is a library of functions for reading files of all kinds"))
    assert not english.is_english(words("Cette bibliothèque fournit des fonctions pour lire des fichiers"))
    assert not english.is_english(words("Das Programm zeigt die Seiten in einem Fenster"))
    assert not english.is_english(words("library tools"))  # too few to say
