"""The fastest of several backends computes, once measuring pays off, until it gives NaN."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docmill.storage.core.specs import Reason, Status
from docmill.tasks.backends.encoder.batches import best
from docmill.tasks.backends.encoder.choice import Contest, FallbackBackend, ProvisionalBackend, is_finite
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.errors import Unsuited
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.outputs import Labels, Output, SpanScores, TokenScores, Vector, Vocabulary, Weights
from tests.tasks.conftest import Bench, EngineOf, outcomes_of
from tests.tasks.fakes import FakeBackend, raising, spec_of


class Backend:
    """A backend that computes ``rate`` tokens a second. ``closed`` is True after it was closed."""

    def __init__(self, name: str, rate: float) -> None:
        self.name = name
        self.closed = False
        self._rate = rate

    def tokens_per_s(self) -> float:
        return self._rate

    def close(self) -> None:
        self.closed = True


class Shop:
    """Opens backends by name, and keeps a list of them. A backend without a rate does not suit."""

    def __init__(self, **rates: float) -> None:
        self.opened: list[Backend] = []
        self._rates = rates

    def __call__(self, name: str) -> Backend:
        if name not in self._rates:
            raise Unsuited(f"{name} is not for this model")
        assert all(backend.closed for backend in self.opened), "two models at once may be too many for the memory"
        self.opened.append(Backend(name, self._rates[name]))
        return self.opened[-1]

    @property
    def names(self) -> list[str]:
        return [backend.name for backend in self.opened]


def fastest(names: Sequence[str], shop: Shop, folder: Path, subject: str) -> Any:
    """Return the backend that is measured as the fastest."""
    return Contest(names, folder, subject).open_fastest(shop)[1]


def test_a_clearly_faster_backend_is_chosen_and_the_others_are_closed(tmp_path: Path) -> None:
    shop = Shop(torch=100.0, openvino=130.0)
    winner = fastest(["torch", "openvino"], shop, tmp_path, "a model")
    assert (winner.name, winner.closed, shop.names) == ("openvino", False, ["torch", "openvino"])
    shop = Shop(torch=100.0, openvino=90.0)
    winner = fastest(["torch", "openvino"], shop, tmp_path, "another model")
    assert (winner.name, winner.closed, shop.names) == ("torch", False, ["torch", "openvino", "torch"])


def test_backends_are_measured_once_for_each_subject(tmp_path: Path) -> None:
    fastest(["torch", "openvino"], Shop(torch=100.0, openvino=130.0), tmp_path, "a model")
    shop = Shop(torch=900.0, openvino=130.0)
    assert fastest(["torch", "openvino"], shop, tmp_path, "a model").name == "openvino"
    assert shop.names == ["openvino"]
    assert fastest(["torch", "openvino"], Shop(torch=900.0, openvino=130.0), tmp_path, "b").name == "torch"
    assert fastest(["torch"], Shop(torch=900.0), tmp_path, "a model").name == "torch"


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"fastest": "a third"}', '{"fastest": ["openvino"]}'])
def test_a_damaged_measurement_is_made_again(tmp_path: Path, damage: str) -> None:
    fastest(["torch", "openvino"], Shop(torch=100.0, openvino=130.0), tmp_path, "a model")
    (file,) = tmp_path.iterdir()
    file.write_text(damage)
    assert fastest(["torch", "openvino"], Shop(torch=200.0, openvino=130.0), tmp_path, "a model").name == "torch"
    assert json.loads(file.read_text())["fastest"] == "torch"


def test_a_backend_that_does_not_suit_leaves_the_model_to_the_others(tmp_path: Path) -> None:
    assert fastest(["torch", "openvino"], Shop(torch=1.0), tmp_path, "a model").name == "torch"
    assert fastest(["torch", "openvino"], Shop(openvino=1.0), tmp_path, "a model").name == "openvino"
    with pytest.raises(Unsuited, match="openvino is not for this model"):
        fastest(["torch", "openvino"], Shop(), tmp_path, "another model")


def test_an_embedding_model_is_measured_once_and_not_for_a_few_texts(bench: Bench, unmeasured: Path) -> None:
    spec = bench.spec("embed", "minilm")
    open_one = partial(open_backend, spec, device="cpu", folders=ModelFolders(None, unmeasured))
    provisional = open_one()
    assert provisional.runtime()["backend"] == "openvino"
    provisional.close()
    assert not (unmeasured / "backends").exists()
    assert not (unmeasured / "batches").exists()
    backends = []
    for provisional_at_first in (False, True):
        backend = open_one(provisional=provisional_at_first)
        backends.append(backend.runtime()["backend"])
        backend.close()
    (file,) = (unmeasured / "backends").iterdir()
    note = json.loads(file.read_text())
    assert set(note["tokens_per_s"]) == {"transformers", "openvino"}
    assert min(note["tokens_per_s"].values()) > 0
    assert backends == [note["fastest"]] * 2
    assert note["fastest"] == best(note["tokens_per_s"])
    batches = [json.loads(file.read_text()) for file in (unmeasured / "batches").iterdir()]
    assert all(batch["subject"].startswith(f"{spec.revision} float32 ") for batch in batches)
    assert len(batches) == 2, "the tokens of a batch, for each backend"


TEXTS = ["one", "two words", "three", "four", "five"]


def test_once_there_was_enough_work_the_measured_backend_computes_the_rest(engine_of: EngineOf) -> None:
    first, chosen = FakeBackend(), FakeBackend(name="measured")
    opened: list[str] = []

    def open_measured() -> FakeBackend:
        assert first.closed.is_set(), "two models at once may be too many for the memory"
        opened.append("measured")
        return chosen

    backend = ProvisionalBackend(first, open_measured, raising(AssertionError("opened without need")), enough=8)
    engine = engine_of(lambda _: backend)
    for _ in range(3):
        outcomes = outcomes_of(engine, spec_of(), TEXTS)
        assert {outcome.status for outcome in outcomes} == {Status.DONE}
    assert opened == ["measured"]
    assert sum(map(len, first.batches)) + sum(map(len, chosen.batches)) == 3 * len(TEXTS)
    assert chosen.batches
    assert engine.open(spec_of())["backend"] == "measured"
    assert not chosen.closed.is_set()


def test_the_first_backend_goes_on_if_none_can_be_measured(
    engine_of: EngineOf, caplog: pytest.LogCaptureFixture
) -> None:
    reopened = FakeBackend()
    backend = ProvisionalBackend(FakeBackend(), raising(MemoryError), lambda: reopened, enough=1)
    engine = engine_of(lambda _: backend)
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            outcomes = outcomes_of(engine, spec_of(), TEXTS)
            assert [outcome.status for outcome in outcomes] == [Status.DONE] * len(TEXTS)
    assert reopened.batches
    assert caplog.text.count("backends_not_measured error=MemoryError()") == 1


class Sound(FakeBackend):
    """A backend that gives numbers where FakeBackend gives NaN."""

    def _compute(self, items: Any) -> Sequence[Any]:
        outputs = super()._compute(items)
        for output in outputs:
            assert isinstance(output, Vector)
            np.nan_to_num(output.values, copy=False)
        return outputs


WITH_NAN = ["one", "two nan", "three", "four nan and more", "five"]


def test_windows_with_nan_are_computed_again_by_another_backend_which_then_goes_on(engine_of: EngineOf) -> None:
    first, second = FakeBackend(), Sound(name="sound")
    left_out: list[str] = []
    backend = FallbackBackend(first, lambda: second, lambda: left_out.append("out"))
    engine = engine_of(lambda _: backend)
    for _ in range(2):
        outcomes = outcomes_of(engine, spec_of(), WITH_NAN)
        assert [outcome.status for outcome in outcomes] == [Status.DONE] * len(WITH_NAN)
    assert first.closed.is_set()
    assert not second.closed.is_set()
    assert left_out == ["out"]
    assert engine.open(spec_of())["backend"] == "sound"
    recomputed = [text for batch in second.batches for text in batch][:2]
    assert sorted(recomputed) == ["four nan and more", "two nan"]
    assert sum(map(len, first.batches)) + sum(map(len, second.batches)) == 2 * len(WITH_NAN) + 2


def test_nan_by_the_models_own_code_too_fails_only_its_document(engine_of: EngineOf) -> None:
    left_out: list[str] = []
    backend = FallbackBackend(FakeBackend(), FakeBackend, lambda: left_out.append("out"))
    outcomes = outcomes_of(engine_of(lambda _: backend), spec_of(), WITH_NAN)
    results = [(outcome.status, outcome.reason_class) for outcome in outcomes]
    good, bad = (Status.DONE, None), (Status.FAILED, Reason.MODEL)
    assert results == [good, bad, good, bad, good]
    assert left_out == []  # the first was not at fault


def test_the_first_backend_goes_on_if_the_models_own_code_does_not_open(
    engine_of: EngineOf, caplog: pytest.LogCaptureFixture
) -> None:
    first = FakeBackend()
    backend = FallbackBackend(first, raising(MemoryError))
    engine = engine_of(lambda _: backend)
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            statuses = [outcome.status for outcome in outcomes_of(engine, spec_of(), WITH_NAN)]
            good, bad = Status.DONE, Status.FAILED
            assert statuses == [good, bad, good, bad, good]
    assert not first.closed.is_set()
    assert caplog.text.count("backend_not_replaced error=MemoryError()") == 1


def test_a_backend_that_was_left_out_is_not_opened_again_and_measurements_stay(tmp_path: Path) -> None:
    names = ["openvino", "another", "torch"]
    assert fastest(names, Shop(openvino=300.0, another=200.0, torch=100.0), tmp_path, "a model").name == "openvino"
    Contest(names, tmp_path, "a model").exclude("openvino")
    for _ in range(2):
        shop = Shop(openvino=300.0, another=200.0, torch=100.0)
        assert fastest(names, shop, tmp_path, "a model").name == "another"
        assert "openvino" not in shop.names
    Contest(names, tmp_path, "a model").exclude("another")
    assert fastest(names, Shop(torch=100.0), tmp_path, "a model").name == "torch"
    (note,) = tmp_path.iterdir()
    assert json.loads(note.read_text())["not_finite"] == ["another", "openvino"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_noticed_in_the_output_of_any_head(bad: float) -> None:
    good, wrong = np.array([0.5, -2], np.float32), np.array([0.5, bad], np.float32)
    sound: list[Output] = [Vector(good), TokenScores("ab", good[None]), SpanScores(good, good, None)]
    unsound: list[Output] = [Vector(wrong), TokenScores("ab", wrong[None]), Labels({"a": 0.5, "b": bad})]
    unsound += [Weights(Vocabulary("ab"), np.arange(2), wrong)]
    unsound += [SpanScores(wrong, good, 1.0), SpanScores(good, wrong, 1.0), SpanScores(good, good, bad)]
    assert [is_finite(output) for output in sound] == [True] * 3
    assert [is_finite(output) for output in unsound] == [False] * 7
