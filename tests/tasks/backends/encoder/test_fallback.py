"""A backend that gives NaN at work is taken out, and its windows are computed again by the model's own code."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docmill.storage.core.outcomes import Reason, Status
from docmill.storage.core.specs import Spec
from docmill.tasks.backends import selection
from docmill.tasks.backends.encoder.autotune import fastest, leave_out, subject
from docmill.tasks.backends.encoder.converted.kept_backend import KeptBackend
from docmill.tasks.backends.encoder.encoder_backend import EncoderBackend
from docmill.tasks.backends.encoder.fallback import FallbackBackend, finite
from docmill.tasks.backends.measurement_cache import remember
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.errors import CannotServe
from docmill.tasks.outputs import Labels, Output, SpanScores, TokenScores, Vector
from tests.tasks.backends.encoder.test_autotune import Shop
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


TEXTS = ["one", "two nan", "three", "four nan and more", "five"]


def test_windows_without_a_vector_are_computed_again_and_the_backend_is_left(engine_of: EngineOf) -> None:
    first, second = FakeBackend(), Sound()
    told: list[str] = []
    backend = FallbackBackend(first, lambda: second, lambda: told.append("out"))
    engine = engine_of(lambda _: backend)
    for _ in range(2):
        ticket = engine.submit(spec_of(), list(enumerate(TEXTS)))
        assert ticket.wait(60)
        assert [outcome.status for outcome in ticket.finished()] == [Status.DONE] * len(TEXTS)
    assert first.closed.is_set()
    assert not second.closed.is_set()
    assert told == ["out"]
    assert engine.runtime(spec_of())["backend"] == "sound"
    again = [text for batch in second.batches for text in batch][:2]
    assert sorted(again) == ["four nan and more", "two nan"]
    assert sum(map(len, first.batches)) + sum(map(len, second.batches)) == 2 * len(TEXTS) + 2


def test_what_is_no_number_with_the_models_own_code_either_fails_its_document_only(engine_of: EngineOf) -> None:
    told: list[str] = []
    backend = FallbackBackend(FakeBackend(), FakeBackend, lambda: told.append("out"))
    ticket = engine_of(lambda _: backend).submit(spec_of(), list(enumerate(TEXTS)))
    assert ticket.wait(60)
    found = [(outcome.status, outcome.reason_class) for outcome in ticket.finished()]
    good, bad = (Status.DONE, None), (Status.FAILED, Reason.MODEL)
    assert found == [good, bad, good, bad, good]
    assert told == []  # the first was not at fault


def test_where_no_other_opens_the_document_fails_and_the_first_goes_on(engine_of: EngineOf) -> None:
    def refuse() -> Any:
        raise CannotServe("no memory")

    first = FakeBackend()
    engine = engine_of(lambda _: FallbackBackend(first, refuse))
    for _ in range(2):
        ticket = engine.submit(spec_of(), list(enumerate(TEXTS)))
        assert ticket.wait(60)
        assert [outcome.status.value for outcome in ticket.finished()].count("failed") == 2
    assert not first.closed.is_set()


def test_what_was_left_out_is_opened_no_more_and_what_was_measured_stays(tmp_path: Path) -> None:
    names = ["openvino", "another", "torch"]
    assert fastest(names, Shop(openvino=300.0, another=200.0, torch=100.0), tmp_path, "a model").name == "openvino"
    leave_out(tmp_path, "a model", "openvino")
    for _ in range(2):
        shop = Shop(openvino=300.0, another=200.0, torch=100.0)
        assert fastest(names, shop, tmp_path, "a model").name == "another"
        assert "openvino" not in shop.names
    leave_out(tmp_path, "a model", "another")
    assert fastest(names, Shop(torch=100.0), tmp_path, "a model").name == "torch"
    (note,) = tmp_path.iterdir()
    assert json.loads(note.read_text())["not_finite"] == ["another", "openvino"]


def test_a_real_model_goes_over_to_its_own_code_with_the_same_vectors(
    bench: Bench,
    engine_of: EngineOf,
    descriptions: list[str],
    unmeasured: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(selection, "installed", lambda: frozenset({"transformers", "openvino"}))
    spec = bench.spec("embed", "minilm")
    measured = subject(spec, "cpu", ("openvino", "transformers"), unmeasured)
    remember(unmeasured / "backends", measured, {"fastest": "openvino"})

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


def test_a_backend_that_was_asked_for_by_name_goes_over_too(
    bench: Bench, engine_of: EngineOf, descriptions: list[str], unmeasured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_one(spec: Spec) -> Any:
        return open_backend(spec, device="cpu", models_dir=None, cache_dir=unmeasured, backend="openvino")

    spec = bench.spec("embed", "minilm")
    plant_nan(monkeypatch, at=3)
    engine = engine_of(open_one)
    engine.open(spec)
    assert engine.runtime(spec)["backend"] == "openvino"
    ticket = engine.submit(spec, list(enumerate(descriptions[:12])))
    assert ticket.wait(250)
    assert all(outcome.vector is not None for outcome in ticket.finished())
    assert engine.runtime(spec)["backend"] == "transformers"
    again = open_one(spec)
    assert again.runtime()["backend"] == "openvino", "what is asked for by name is not left out for good"
    again.close()


def plant_nan(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Have a converted encoder give NaN for one row of a batch of documents."""

    def planting(own: Callable[..., Any]) -> Callable[..., Any]:
        def planted(self: EncoderBackend | KeptBackend, items: Any) -> dict[str, Any]:
            states: dict[str, Any] = own(self, items)
            if type(self) is not EncoderBackend:
                for row, item in enumerate(items):
                    if item.owner is not None and item.owner[0].content_id == at:
                        states["token_embeddings"][row] = np.nan
            return states

        return planted

    for backend in (EncoderBackend, KeptBackend):
        monkeypatch.setattr(backend, "_states", planting(backend._states))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_output_of_any_head_with_a_number_that_is_not_finite_is_noticed(bad: float) -> None:
    good, wrong = np.array([0.5, -2], np.float32), np.array([0.5, bad], np.float32)
    sound: list[Output] = [Vector(good), TokenScores("ab", good[None]), SpanScores(good, good, None)]
    unsound: list[Output] = [Vector(wrong), TokenScores("ab", wrong[None]), Labels({"a": 0.5, "b": bad})]
    unsound += [SpanScores(wrong, good, 1.0), SpanScores(good, wrong, 1.0), SpanScores(good, good, bad)]
    assert [finite(output) for output in sound] == [True] * 3
    assert [finite(output) for output in unsound] == [False] * 6
