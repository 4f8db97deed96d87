"""Steps that read only outputs with, or without, some flags: their plans, results, status and changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from sqlalchemy import bindparam, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Json
from docmill.storage.core.specs import Outcome, Spec
from docmill.storage.deletion import gc
from docmill.storage.results.job_counts import count_flags
from docmill.storage.results.parts import fingerprints
from docmill.storage.results.results import failures, results
from docmill.storage.results.status import read_status
from docmill.storage.steps.choosing import as_text, condition
from docmill.storage.steps.conditions import Flagged, parse_flags
from docmill.storage.steps.jobs import OpenJob
from docmill.storage.steps.steps import StepRequest
from tests.storage.builders import EMBED, TRANSLATE, numbered, request
from tests.storage.fleet import SUMMARIZE, Fleet
from tests.storage.steps.test_conditions import result


def split_by(wanted: Sequence[str]) -> tuple[StepRequest, ...]:
    """Return steps of which one reads the outputs with these flags or bounds, and another all other outputs."""
    return (
        StepRequest("english", TRANSLATE),
        StepRequest("again", SUMMARIZE, "english", Flagged.parse(wanted)),
        StepRequest("vector", EMBED, "again"),
        StepRequest("good", EMBED, "english", Flagged.parse(wanted, lacking=True)),
    )


STEPS = split_by(["doubtful"])
TEXTS = numbered(6)


class Flagger(Fleet):
    """A fleet whose translations are doubtful for texts that end in a digit of `doubtful`."""

    def __init__(self, database: Database, doubtful: str = "02") -> None:
        super().__init__(database)
        self.doubtful = doubtful
        self.confidence: dict[str, float] = {}
        self.written: str | None = None

    def _outcome(self, kind: str, content_id: int, text: str) -> Outcome:
        outcome = super()._outcome(kind, content_id, text)
        if kind != "translate":
            return outcome
        flags = ("windowed", "empty_window") if text[-1] in self.doubtful else ("windowed",)
        confidence = self.confidence.get(text[-1])
        return replace(outcome, text=self.written or outcome.text, flags=flags, confidence=confidence)

    def run(self, steps: tuple[StepRequest, ...] = STEPS) -> OpenJob:
        return self.run_job(request(steps=steps), TEXTS)

    def texts_of(self, kind: str) -> set[str]:
        """Return the texts that a kind of step computed."""
        return {text for name, text in self.computed if name == kind}


def list_steps(database: Database, job: OpenJob) -> dict[str, set[str]]:
    """Return for each document of a job the steps with a result."""
    return {row["id"]: {*row["steps"]} for row in results(database, job.id)}


@pytest.mark.parametrize(
    ("chosen", "rest", "wanted"), [("02", "1345", ["doubtful"]), ("0", "12345", ["confidence<0.5"])]
)
def test_a_step_and_its_followers_compute_only_the_selected_outputs_and_another_step_the_rest(
    database: Database, chosen: str, rest: str, wanted: list[str]
) -> None:
    flagger = Flagger(database)
    flagger.confidence = {"0": 0.2, "1": 0.5, "2": 0.9}  # the others have no confidence
    job = flagger.run(split_by(wanted))
    assert flagger.texts_of("summarize") == {f"translate(text {n})" for n in chosen}
    assert flagger.texts_of("embed") == {
        *(f"summarize(translate(text {n}))" for n in chosen),
        *(f"translate(text {n})" for n in rest),
    }
    assert list_steps(database, job) == {
        **{f"k{n}": {"english", "again", "vector"} for n in chosen},
        **{f"k{n}": {"english", "good"} for n in rest},
    }
    assert {row["id"] for row in results(database, job.id, step="again")} == {f"k{n}" for n in chosen}
    # The other documents neither fail nor are missing.
    status = read_status(database, job.id)
    assert (status.state, status.failed, status.pending, status.lost) == ("done", 0, 0, 0)
    n_read = (6, len(chosen), len(chosen), len(rest))
    assert [(step.done, step.blocked) for step in status.steps] == [(n, 0) for n in n_read]
    assert list(failures(database, job.id)) == []
    counts = count_flags(database, job.id)
    assert {name: count.not_selected for name, count in counts.items()} == {
        "english": 0,
        "again": len(rest),
        "vector": 0,
        "good": len(chosen),
    }
    gc.drop(database, spec_ids=gc.specs(database, "summarize/synopsis"))
    assert read_status(database, job.id).lost == len(chosen)  # of the documents that had a result


def test_a_text_that_two_outputs_share_is_read_only_by_the_document_that_is_selected(database: Database) -> None:
    flagger = Flagger(database)
    flagger.written = "one for all"
    job = flagger.run()
    assert flagger.texts_of("summarize") == {"one for all"}
    assert {row["id"] for row in results(database, job.id, step="again")} == {"k0", "k2"}
    assert {row["id"] for row in results(database, job.id, step="good")} == {"k1", "k3", "k4", "k5"}
    assert read_status(database, job.id).lost == 0
    assert {name: mark["done"] for name, mark in fingerprints(database, job.id).items()} == {
        "english": 6,
        "again": 2,
        "vector": 2,
        "good": 4,
    }


def test_a_document_enters_or_leaves_a_step_when_its_new_output_has_other_flags(
    database: Database,
) -> None:
    flagger = Flagger(database)
    flagger.run()
    gc.drop(database, spec_ids=gc.specs(database, "translate/marian"))
    flagger.doubtful = "23"
    job = flagger.run()
    steps_of = list_steps(database, job)
    assert {key for key, steps in steps_of.items() if "again" in steps} == {"k2", "k3"}
    assert {key for key, steps in steps_of.items() if "good" in steps} == {"k0", "k1", "k4", "k5"}


def test_prompts_are_rendered_only_of_what_is_selected(database: Database) -> None:
    prompted = Spec("summarize", "chat", "sha256:9", params={"prompt": "{meta.n}: {text}"})
    steps = (STEPS[0], StepRequest("again", prompted, "english", Flagged()))
    flagger = Flagger(database)
    job = flagger.run(steps)
    assert flagger.texts_of("summarize") == {"6: translate(text 0)", "6: translate(text 2)"}
    assert {row["id"] for row in results(database, job.id, step="again")} == {"k0", "k2"}
    before = flagger.computed.copy()
    flagger.run(steps)
    assert flagger.computed == before


@pytest.mark.parametrize(
    "flags", [[], ["windowed"], ["empty_window"], ["empty"], ["language:fr"], ["invalid_utf8@7", "windowed"]]
)
def test_a_condition_gives_the_same_in_sql_and_python(database: Database, flags: list[str]) -> None:
    for names in (["doubtful"], ["empty"], ["language"], ["language:FR"], ["invalid_utf8"], ["windowed", "empty"]):
        for lacking in (False, True):
            flagged = Flagged(parse_flags(names), lacking)
            assert Flagged.stored(flagged.to_json()) == flagged
            column = as_text(bindparam("flags", flags, type_=Json))
            assert bool(database.value(select(condition(flagged, column)))) is flagged.holds(result(*flags))
