"""The fastest of several backends, found by measuring and remembered."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from docmill.tasks.backends.encoder.autotune import best, fastest
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.errors import Unsuited
from tests.tasks.conftest import Bench


class Backend:
    """Computes so many tokens a second; `closed` says whether it was given back."""

    def __init__(self, name: str, rate: float) -> None:
        self.name = name
        self.closed = False
        self._rate = rate

    def tokens_per_s(self) -> float:
        return self._rate

    def close(self) -> None:
        self.closed = True


class Shop:
    """Opens backends by name, and keeps all that it opened; those without a rate do not suit."""

    def __init__(self, **rates: float) -> None:
        self.opened: list[Backend] = []
        self._rates = rates

    def __call__(self, name: str) -> Backend:
        if name not in self._rates:
            raise Unsuited(f"{name} is not for this model")
        assert all(one.closed for one in self.opened), "two models at once may be too many for the memory"
        self.opened.append(Backend(name, self._rates[name]))
        return self.opened[-1]

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.opened]


def test_the_clearly_faster_one_is_taken_and_the_others_are_closed(tmp_path: Path) -> None:
    shop = Shop(torch=100.0, openvino=130.0)
    taken = fastest(["torch", "openvino"], shop, tmp_path, "a model")
    assert (taken.name, taken.closed, shop.names) == ("openvino", False, ["torch", "openvino"])
    shop = Shop(torch=100.0, openvino=90.0)
    taken = fastest(["torch", "openvino"], shop, tmp_path, "another model")
    assert (taken.name, taken.closed, shop.names) == ("torch", False, ["torch", "openvino", "torch"])


def test_the_first_is_taken_unless_another_is_clearly_ahead() -> None:
    assert best({"one": 100.0, "two": 104.0}) == "one"
    assert best({"one": 100.0, "two": 106.0, "three": 109.0}) == "two"


def test_it_is_measured_once_for_each_subject(tmp_path: Path) -> None:
    fastest(["torch", "openvino"], Shop(torch=100.0, openvino=130.0), tmp_path, "a model")
    shop = Shop(torch=900.0, openvino=130.0)
    assert fastest(["torch", "openvino"], shop, tmp_path, "a model").name == "openvino"
    assert shop.names == ["openvino"]
    assert fastest(["torch", "openvino"], Shop(torch=900.0, openvino=130.0), tmp_path, "b").name == "torch"
    assert fastest(["torch"], Shop(torch=900.0), tmp_path, "a model").name == "torch"


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"fastest": "a third"}', '{"fastest": ["openvino"]}'])
def test_what_is_remembered_and_makes_no_sense_is_measured_again(tmp_path: Path, damage: str) -> None:
    fastest(["torch", "openvino"], Shop(torch=100.0, openvino=130.0), tmp_path, "a model")
    (file,) = tmp_path.iterdir()
    file.write_text(damage)
    assert fastest(["torch", "openvino"], Shop(torch=200.0, openvino=130.0), tmp_path, "a model").name == "torch"
    assert json.loads(file.read_text())["fastest"] == "torch"


def test_one_that_does_not_suit_leaves_the_model_to_the_others(tmp_path: Path) -> None:
    assert fastest(["torch", "openvino"], Shop(torch=1.0), tmp_path, "a model").name == "torch"
    assert fastest(["torch", "openvino"], Shop(openvino=1.0), tmp_path, "a model").name == "openvino"
    with pytest.raises(Unsuited, match="openvino is not for this model"):
        fastest(["torch", "openvino"], Shop(), tmp_path, "another model")


def test_an_embedding_model_is_measured_once_and_not_for_a_few_texts(bench: Bench, unmeasured: Path) -> None:
    spec = bench.spec("embed", "minilm")
    open_one = partial(open_backend, spec, device="cpu", models_dir=None, cache_dir=unmeasured)
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
    found = json.loads(file.read_text())
    assert set(found["tokens_per_s"]) == {"transformers", "openvino"}
    assert min(found["tokens_per_s"].values()) > 0
    assert backends == [found["fastest"]] * 2
    assert found["fastest"] == best(found["tokens_per_s"])
