"""A backend computes until it gives NaN; then the model's own code does, also later."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docmill.storage.core.specs import Reason, Spec, Status
from docmill.tasks.backends import registry
from docmill.tasks.backends.encoder.choice import FallbackBackend, finite
from docmill.tasks.backends.encoder.openvino_backend import OpenVinoBackend
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.outputs import Labels, Output, SpanScores, TokenScores, Vector
from tests.tasks.conftest import Bench, EngineOf
from tests.tasks.fakes import FakeBackend, spec_of


class Sound(FakeBackend):
    """Gives numbers where the other gives none."""

    def _compute(self, items: Any) -> Sequence[Any]:
        outputs = super()._compute(items)
        for output in outputs:
            assert isinstance(output, Vector)
            np.nan_to_num(output.values, copy=False)
        return outputs

    def runtime(self) -> dict[str, Any]:
        return {**super().runtime(), "backend": "sound"}


WITH_NAN = ["one", "two nan", "three", "four nan and more", "five"]


def test_windows_without_a_vector_are_computed_again_and_the_backend_is_left(engine_of: EngineOf) -> None:
    first, second = FakeBackend(), Sound()
    told: list[str] = []
    backend = FallbackBackend(first, lambda: second, lambda: told.append("out"))
    engine = engine_of(lambda _: backend)
    for _ in range(2):
        ticket = engine.submit(spec_of(), list(enumerate(WITH_NAN)))
        assert ticket.wait(60)
        assert [outcome.status for outcome in ticket.finished()] == [Status.DONE] * len(WITH_NAN)
    assert first.closed.is_set()
    assert not second.closed.is_set()
    assert told == ["out"]
    assert engine.runtime(spec_of())["backend"] == "sound"
    again = [text for batch in second.batches for text in batch][:2]
    assert sorted(again) == ["four nan and more", "two nan"]
    assert sum(map(len, first.batches)) + sum(map(len, second.batches)) == 2 * len(WITH_NAN) + 2


def test_what_is_no_number_with_the_models_own_code_either_fails_its_document_only(engine_of: EngineOf) -> None:
    told: list[str] = []
    backend = FallbackBackend(FakeBackend(), FakeBackend, lambda: told.append("out"))
    ticket = engine_of(lambda _: backend).submit(spec_of(), list(enumerate(WITH_NAN)))
    assert ticket.wait(60)
    found = [(outcome.status, outcome.reason_class) for outcome in ticket.finished()]
    good, bad = (Status.DONE, None), (Status.FAILED, Reason.MODEL)
    assert found == [good, bad, good, bad, good]
    assert told == []  # the first was not at fault


def test_a_real_model_goes_over_to_its_own_code_with_the_same_vectors(
    bench: Bench,
    engine_of: EngineOf,
    descriptions: list[str],
    unmeasured: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(registry, "installed", lambda: frozenset({"transformers", "openvino"}))
    spec = bench.spec("embed", "minilm")

    def open_one(spec: Spec) -> Any:
        return open_backend(spec, device="cpu", models_dir=None, cache_dir=unmeasured)

    texts = [(number, text) for number, text in enumerate(descriptions[:12])]
    expected = engine_of(open_one).submit(spec, texts)
    assert expected.wait(250)
    plant_nan(monkeypatch, at=3)
    engine = engine_of(open_one)
    engine.open(spec)
    assert engine.runtime(spec)["backend"] == "openvino"
    with caplog.at_level(logging.ERROR):
        ticket = engine.submit(spec, texts)
        assert ticket.wait(250)
    assert "backend_taken_out backend=openvino" in caplog.text
    assert engine.runtime(spec)["backend"] == "transformers"
    for one, other in zip(ticket.finished(), expected.finished(), strict=True):
        assert one.vector is not None
        assert other.vector is not None
        cosine = np.dot(np.frombuffer(one.vector, "<f4"), np.frombuffer(other.vector, "<f4"))
        assert cosine > 0.99999
    later = open_one(spec)
    assert later.runtime()["backend"] == "transformers"
    later.close()
    (note,) = (unmeasured / "backends").iterdir()
    assert json.loads(note.read_text())["not_finite"] == ["openvino"]


def plant_nan(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Have a converted encoder give NaN for one row of a batch of documents."""

    own = OpenVinoBackend._states

    def planted(self: OpenVinoBackend, items: Any) -> dict[str, Any]:
        states = own(self, items)
        for row, item in enumerate(items):
            if item.owner is not None and item.owner[0].content_id == at:
                states["token_embeddings"][row] = np.nan
        return states

    monkeypatch.setattr(OpenVinoBackend, "_states", planted)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_output_of_any_head_with_a_number_that_is_not_finite_is_noticed(bad: float) -> None:
    good, wrong = np.array([0.5, -2], np.float32), np.array([0.5, bad], np.float32)
    sound: list[Output] = [Vector(good), TokenScores("ab", good[None]), SpanScores(good, good, None)]
    unsound: list[Output] = [Vector(wrong), TokenScores("ab", wrong[None]), Labels({"a": 0.5, "b": bad})]
    unsound += [SpanScores(wrong, good, 1.0), SpanScores(good, wrong, 1.0), SpanScores(good, good, bad)]
    assert [finite(output) for output in sound] == [True] * 3
    assert [finite(output) for output in unsound] == [False] * 6
