"""Outputs of a document's windows become one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from storage.core.outcomes import Outcome
from tasks.kinds.base import Computed
from tasks.kinds.generate import Generate
from tasks.outputs import Generated
from tasks.windows.windows import Encoded, Window


def joined(texts: Sequence[str]) -> Outcome:
    windows = [Window(number, number + 1, Encoded(1, {}), part=len(texts) > 1) for number, _ in enumerate(texts)]
    outputs = [Generated(text, 1, truncated=False) for text in texts]
    outcome = Generate().join(Computed(1, "x" * len(texts), windows, outputs, 1, 0, 0))
    assert isinstance(outcome, Outcome)
    return outcome


@pytest.mark.parametrize("text", [" a\n", "\n    return x\n\n", "a", "\t"])
def test_the_output_of_one_window_stays_as_it_is(text: str) -> None:
    assert joined([text]).text == text


def test_between_the_outputs_of_windows_stands_a_blank_line_alone() -> None:
    assert joined([" a \n", "\n\n b\n", "  ", "\tc\n"]).text == " a\n\nb\n\nc\n"


@pytest.mark.parametrize(
    ("texts", "flags"),
    [
        (["a"], ()),
        ([" \n"], ("empty",)),
        (["a", " "], ("windowed", "empty_window")),
        (["", "\n"], ("windowed", "empty")),
    ],
)
def test_white_space_alone_is_nothing(texts: list[str], flags: tuple[str, ...]) -> None:
    assert joined(texts).flags == flags
