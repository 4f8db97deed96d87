"""The modules that the opening of a spec imports are known before it is opened."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from docmill.tasks.backends import measurement_cache, selection
from docmill.tasks.backends.encoder import autotune
from docmill.tasks.engine import library_imports
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.engine.library_imports import Place, import_libraries, modules
from tests.tasks.conftest import Bench

KEPT = ["docmill.tasks.backends.encoder.converted.kept_backend"]
ON_TORCH = "docmill.tasks.backends.encoder.encoder_backend"
OF_HEAD = ["docmill.tasks.backends.encoder.library", "docmill.tasks.backends.encoder.pooling"]


def test_a_model_that_was_opened_before_needs_fewer_libraries(
    bench: Bench, unmeasured: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "installed", lambda: frozenset({"transformers", "openvino"}))
    spec = bench.spec("embed", "minilm")
    new = Place("cpu", None, tmp_path_factory.mktemp("cache"))
    assert modules(spec, new) == ["docmill.tasks.backends.encoder.converted.openvino_backend", *OF_HEAD]
    assert modules(spec, replace(new, backend="transformers")) == [ON_TORCH, *OF_HEAD]
    here = Place("cpu", None, unmeasured)
    open_backend(spec, device="cpu", models_dir=None, cache_dir=unmeasured).close()
    assert modules(spec, here) == KEPT
    names = ("openvino", "transformers")
    measured = autotune.subject(spec, "cpu", names, unmeasured)
    measurement_cache.remember(unmeasured / "backends", measured, {"fastest": "transformers"})
    assert modules(spec, here)[0] == ON_TORCH


def test_models_without_weights_import_nothing_before_they_are_opened(bench: Bench, tmp_path: Path) -> None:
    assert modules(bench.spec("embed", "null"), Place("cpu", None, tmp_path)) == []


def test_a_model_that_an_adapter_is_still_to_be_merged_into_imports_what_merges(bench: Bench, tmp_path: Path) -> None:
    here = Place("cpu", None, tmp_path)
    assert modules(bench.spec("classify", "classes-ddtp"), here) == ["docmill.tasks.backends.merging", "peft"]


def test_a_library_that_cannot_be_imported_is_left_to_the_opening(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(library_imports, "modules", lambda *_: ["no_such_library"])
    with caplog.at_level(logging.INFO):
        import_libraries(bench.spec("embed", "minilm"), Place("cpu", None, tmp_path))
    assert "libraries_not_imported" in caplog.text
