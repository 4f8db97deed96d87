"""A long-lived process collects garbage before it opens a model."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from docmill.storage.core.specs import Spec
from docmill.tasks.backends.weightless import NullBackend
from docmill.tasks.models import weightless
from docmill.worker.engines.engines import settled

SPEC = Spec("embed", weightless.NULL, weightless.NULL_REVISION)


class Big(NullBackend):
    """A model whose parts refer to one another."""

    def __init__(self) -> None:
        super().__init__(SPEC, device="cpu")
        self.itself = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_a_model_that_is_loaded_is_not_looked_through_again() -> None:
    opened = settled(lambda _: Big())(SPEC)
    assert gc.get_freeze_count() > 1000
    assert not any(one is opened for one in gc.get_objects())


@pytest.mark.slow
def test_a_model_that_was_closed_is_gone_before_the_next_is_loaded() -> None:
    seen: list[bool] = []
    gone: list[weakref.ref[Big]] = []

    def open_one(_: Spec) -> Big:
        seen.append(bool(gone) and gone[-1]() is None)
        big = Big()
        gone.append(weakref.ref(big))
        return big

    opener = settled(open_one)
    for _ in range(3):
        opener(SPEC)  # and nobody holds it
    assert seen == [False, True, True]


def test_the_first_model_thaws_nothing_that_was_frozen_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "unfreeze", lambda: pytest.fail("what a process was forked with is looked through"))
    gc.freeze()
    settled(lambda _: Big())(SPEC)
    monkeypatch.undo()
