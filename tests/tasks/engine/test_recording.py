"""A text that is computed by itself keeps the outputs of its windows, round by round."""

from __future__ import annotations

import pytest

from storage.core.outcomes import Status
from storage.core.specs import Spec
from tasks.backends.null import NullBackend
from tasks.engine.recording import compute
from tasks.errors import CannotServe
from tasks.models.null import REVISION
from tasks.outputs import Generated

TEXT = " ".join(f"w{n}" for n in range(1_200))


def null(kind: str) -> Spec:
    return Spec(kind, "null", REVISION, params={"prompt": "{text}"} if kind == "generate" else {})


def opened(spec: Spec) -> NullBackend:
    return NullBackend(spec, device="cpu")


def test_the_windows_of_all_rounds_are_kept_with_their_outputs() -> None:
    found = compute(opened, null("summarize"), TEXT)
    assert found.outcome.status is Status.DONE
    assert found.outcome.flags == ("reduced",)
    first = [one for one in found.windows if one.round == 1]
    assert len(first) > 1
    assert "".join(one.text for one in first) == TEXT
    assert all(isinstance(one.output, Generated) for one in first)
    (second,) = [one for one in found.windows if one.round == 2]
    assert isinstance(second.output, Generated)
    assert second.output.text == found.outcome.text
    assert second.text == "\n".join(one.output.text for one in first if isinstance(one.output, Generated))
    assert found.runtime["precision"] == "none"


def test_a_copied_window_has_no_output() -> None:
    found = compute(opened, null("translate"), "One.\n\n...\n\nTwo.")
    assert [(one.text, one.output is None) for one in found.windows] == [
        ("One.", False),
        ("...", True),
        ("Two.", False),
    ]


def test_a_blank_text_has_no_windows() -> None:
    found = compute(opened, null("embed"), " ")
    assert (found.outcome.status, found.windows) == (Status.SKIPPED, ())


def test_a_model_that_does_not_open_is_refused() -> None:
    def refuse(_spec: Spec) -> NullBackend:
        raise CannotServe("not here")

    with pytest.raises(CannotServe, match="not here"):
        compute(refuse, null("embed"), "one")
