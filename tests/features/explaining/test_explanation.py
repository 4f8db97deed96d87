"""An explanation says what became of a document, and why an output has its flags."""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

import pytest

from docmill.features.explaining.explanation import Explanation, Flag, explain, explain_flags
from docmill.features.explaining.provenance import Provenance, Recorded, StepRecord
from docmill.features.explaining.windows import ReadWindow
from docmill.storage.core.specs import Spec
from docmill.tasks.checks import all_checks
from docmill.tasks.errors import CannotServe
from docmill.tasks.kinds import Traits

SPEC = Spec("summarize", "synopsis", "sha256:1")
DONE = Recorded("done", {"text": "out"}, None, None, ("reduced",), 4, 3, 1.0, None)
PROVENANCE = Provenance(
    job=7,
    state="running",
    corpus="books",
    source="a.jsonl",
    read_at=0.0,
    document="k",
    meta={},
    flags=("nul_replaced",),
    text="a text",
    changed=False,
    gone=False,
    way=(StepRecord("summarize", None, SPEC, "a text", "a text", DONE),),
)


def cut(spec: Spec, text: str) -> tuple[list[ReadWindow], Traits]:
    return [ReadWindow(0, len(text), 1, f"{spec.model} reads {text}", part=False)], Traits()


def explain_step(provenance: Provenance = PROVENANCE, **step: object) -> Explanation:
    """Return the explanation with other values of the last step."""
    way = (*provenance.way[:-1], replace(provenance.step, **step))  # type: ignore[arg-type]
    return explain(replace(provenance, way=way), cut)


def test_a_result_has_its_flags_with_their_meanings_and_the_windows_of_what_was_computed() -> None:
    explanation = explain_step(content="a prompt")
    assert (explanation.state, explanation.said) == ("done", None)
    assert [window.prompt for window in explanation.windows] == ["synopsis reads a prompt"]
    assert explanation.flags == (
        Flag("nul_replaced", "document", "the reader replaced NUL characters by U+FFFD"),
        Flag("reduced", "output", "the summaries of several windows were summarized again"),
    )
    assert explanation.weights == {"model": "synopsis", "revision": "sha256:1"}


def test_a_text_that_cannot_be_cut_here_has_the_reason_and_no_windows() -> None:
    def refuse(spec: Spec, _text: str) -> NoReturn:
        raise CannotServe(f"{spec.model} is not on this machine.")

    explanation = explain(PROVENANCE, refuse)
    assert (explanation.windows, explanation.windows_unknown) == ((), "synopsis is not on this machine.")


@pytest.mark.parametrize(
    ("reason_class", "says"),
    [("transient", "a retry can help"), ("document", "a retry gives the same"), (None, "it would not")],
)
def test_a_failure_has_its_reason_and_what_a_retry_does(reason_class: str | None, says: str) -> None:
    failed = replace(DONE, status="failed", reason="it would not", reason_class=reason_class, output={}, flags=())
    explanation = explain_step(outcome=failed)
    assert explanation.state == "failed"
    assert explanation.said is not None
    assert explanation.said.startswith("it would not")
    assert says in explanation.said


def test_what_has_no_outcome_says_why() -> None:
    assert explain_step(outcome=None).said == "It is not computed yet. `docmill status 7` shows the job's progress."
    cancelled = explain_step(replace(PROVENANCE, state="cancelled"), outcome=None)
    assert cancelled.said == "It was not computed: the job was cancelled. Run its source again to compute it."
    left_out = explain_step(replace(PROVENANCE, left_out="a repeat of j"), outcome=None, content=None)
    assert (left_out.state, "It is a repeat of j, and the step" in (left_out.said or "")) == ("left out", True)
    removed = explain_step(outcome=None, removed=True)
    assert (removed.state, "Run the source a.jsonl" in (removed.said or "")) == ("removed", True)


def test_a_step_waits_for_the_one_before_it_or_is_blocked_by_it() -> None:
    second = StepRecord("second", "summarize", SPEC, None, None, None)
    waits = explain(replace(PROVENANCE, way=(*PROVENANCE.way, second)), cut)
    assert (waits.state, "waits for the step summarize" in (waits.said or "")) == ("to do", True)
    failed = replace(PROVENANCE.step, outcome=replace(DONE, status="failed", reason="it would not"))
    blocked = explain(replace(PROVENANCE, way=(failed, second)), cut)
    assert (blocked.state, blocked.said) == ("blocked", "The earlier step summarize failed: it would not")


TRANSLATE = Spec("translate", "m", "sha256:1", params={"source_lang": "fr", "target_lang": "en"})
GIVEN = "Le paquet 1.2 contient 30 fichiers."


def test_a_flag_has_what_its_check_finds_in_the_output() -> None:
    output = {"text": "The package 1.2 has 40 files."}
    (flag,) = explain_flags(TRANSLATE, Traits(), GIVEN, output, ("numbers_changed",))
    assert (flag.name, flag.of, flag.meaning) == ("numbers_changed", "output", all_checks()["numbers_changed"].doubts)
    assert any("40" in line and "characters 20 to 22 of the output" in line for line in flag.evidence)
    assert any("30" in line and "characters 23 to 25 of the input" in line for line in flag.evidence)


def test_an_output_of_little_confidence_has_it_as_evidence() -> None:
    output = {"text": "The package 1.2 has 30 files."}
    (flag,) = explain_flags(TRANSLATE, Traits(), GIVEN, output, ("low_confidence",), 0.213)
    assert flag.evidence == ("its tokens have a mean probability of 0.21, less than 0.3",)
    (unstored,) = explain_flags(TRANSLATE, Traits(), GIVEN, output, (), 0.213)
    assert (unstored.name, unstored.of) == ("low_confidence", "today")
    assert explain_flags(TRANSLATE, Traits(), GIVEN, output, (), 0.3) == []


def test_a_flag_that_only_a_check_of_today_finds_is_marked_and_other_flags_have_no_evidence() -> None:
    output = {"text": "The package 1.2 has 40 files."}
    windowed, unstored = explain_flags(TRANSLATE, Traits(), GIVEN, output, ("windowed",))
    assert (windowed.name, windowed.of, windowed.evidence) == ("windowed", "output", ())
    assert (unstored.name, unstored.of) == ("numbers_changed", "today")
    assert explain_flags(TRANSLATE, Traits(), GIVEN, {"text": "The package 1.2 has 30 files."}, ()) == []
    assert explain_flags(TRANSLATE, Traits(), GIVEN, {}, ("windowed",)) == [windowed]
