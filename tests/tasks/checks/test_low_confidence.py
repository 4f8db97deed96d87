"""Outputs are doubted whose tokens the model found improbable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from docmill.storage.core.flags import known
from docmill.storage.core.outcomes import DOUBTFUL, LOW_CONFIDENCE, Outcome, Status
from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.checks import NONE, Checks, low_confidence
from docmill.tasks.engine.documents import Document
from docmill.tasks.engine.submission import Submission
from docmill.tasks.kinds import Traits
from docmill.tasks.kinds.base import Computed, Recipe
from docmill.tasks.windows.windows import Coder, Window


class Wrote(Recipe):
    """Writes one sentence with a confidence."""

    def __init__(self, confidence: float | None, status: Status = Status.DONE) -> None:
        self.confidence, self.status = confidence, status

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        return [[] for _ in texts]

    def join(self, computed: Computed) -> Outcome:
        return Outcome(1, self.status, text="Trees grow.", flags=("windowed",), confidence=self.confidence)


def flags(wrote: Wrote, checks: Checks) -> tuple[str, ...]:
    outcome = Document(cast("Submission", None), 0, 1, "Les arbres poussent.").finish(wrote, checks)
    assert isinstance(outcome, Outcome)
    return outcome.flags


@pytest.mark.parametrize(("kind", "least"), [("translate", 0.3), ("summarize", 0.25), ("generate", None)])
def test_the_bound_is_part_of_the_kind(kind: str, least: float | None) -> None:
    assert kinds.checks(Spec(kind, "some/model", "0" * 40), Traits()).least_confidence == least


def test_an_output_below_the_bound_is_doubtful() -> None:
    checks = Checks(least_confidence=0.3)
    assert flags(Wrote(0.2999), checks) == ("windowed", "low_confidence")
    assert flags(Wrote(0.3), checks) == ("windowed",)
    assert LOW_CONFIDENCE in DOUBTFUL
    assert LOW_CONFIDENCE in known()


def test_an_output_without_a_confidence_a_bound_or_a_text_is_not() -> None:
    assert flags(Wrote(None), Checks(least_confidence=0.3)) == ("windowed",)
    assert flags(Wrote(0.01), NONE) == ("windowed",)
    assert flags(Wrote(0.01, Status.FAILED), Checks(least_confidence=0.3)) == ("windowed",)


def test_the_evidence_has_both_numbers() -> None:
    found = low_confidence.find(0.2149, 0.25)
    assert found is not None
    assert found.evidence == "its tokens have a mean probability of 0.21, less than 0.25"
