"""A text is cut without the weights of a model as it is with them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from docmill.features.explaining import windows
from docmill.features.explaining.windows import ReadWindow
from docmill.storage.core.specs import Spec
from docmill.tasks.errors import CannotServe
from tests.tasks.conftest import Bench, data_of

FRENCH = "Le paquet fournit une bibliothèque graphique.\n\n...\n\nIl contient <ses> en-têtes."
LONG = " ".join(f"Package number {n} has a graphical library, and its headers." for n in range(60))


def cut(bench: Bench, spec: Spec, text: str) -> list[ReadWindow]:
    return windows.cut(bench.folders, spec, text)[0]


def test_the_windows_of_a_translation_are_its_paragraphs_as_the_model_reads_them(bench: Bench) -> None:
    spec = bench.spec("translate", "marian-ddtp", source_lang="fr", target_lang="en")
    first, number, second = cut(bench, spec, FRENCH)
    assert first.prompt == "Le paquet fournit une bibliothèque graphique.</s>"
    assert (number.prompt, number.tokens, FRENCH[number.start : number.end]) == (None, None, "...")
    assert second.prompt == "Il contient <unk> ses> en-têtes.</s>"  # the model knows no such bracket
    (outcome,) = bench.run(spec, [FRENCH])
    assert (first.tokens or 0) + (second.tokens or 0) == outcome.tokens_in


def test_the_windows_of_a_long_text_are_those_that_the_backend_computed(bench: Bench) -> None:
    spec = bench.spec("embed", "minilm", windows="all")
    read_windows = cut(bench, spec, LONG)
    (outcome,) = bench.run(spec, [LONG])
    assert [[window.start, window.end] for window in read_windows] == data_of(outcome)["windows"]
    assert all(window.part for window in read_windows)
    assert sum(window.tokens or 0 for window in read_windows) == outcome.tokens_in
    assert (read_windows[0].prompt or "").startswith("[CLS] package number 0 has")


def test_the_windows_of_a_model_with_an_adapter_are_those_of_the_two_together(bench: Bench) -> None:
    spec = bench.spec("classify", "classes-ddtp")
    read_windows = cut(bench, spec, LONG)
    (outcome,) = bench.run(spec, [LONG])
    assert sum(window.tokens or 0 for window in read_windows) == outcome.tokens_in
    away = replace(spec, params={**spec.params, "adapter": "no-such/adapter", "adapter_revision": "0" * 40})
    with pytest.raises(CannotServe, match="adapter no-such/adapter is not on this machine"):
        cut(bench, away, LONG)
    changed = replace(spec, params={**spec.params, "adapter_revision": "sha256:1"})
    with pytest.raises(CannotServe, match="have changed since the job was made"):
        cut(bench, changed, LONG)
