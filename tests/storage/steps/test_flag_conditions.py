"""Steps that read only outputs with, or without, some flags: their plans, results, status and changes."""

from __future__ import annotations

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

ONLY_DOUBTFUL, NO_DOUBTFUL = Flagged(), Flagged(lacking=True)
STEPS = (
    StepRequest("english", TRANSLATE),
    StepRequest("again", SUMMARIZE, "english", ONLY_DOUBTFUL),
    StepRequest("vector", EMBED, "again"),
    StepRequest("good", EMBED, "english", NO_DOUBTFUL),
)
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


def test_a_step_and_its_followers_compute_only_the_selected_outputs(database: Database) -> None:
    flagger = Flagger(database)
    job = flagger.run()
    assert flagger.texts_of("summarize") == {"translate(text 0)", "translate(text 2)"}
    assert flagger.texts_of("embed") == {
        *(f"summarize(translate(text {n}))" for n in (0, 2)),
        *(f"translate(text {n})" for n in (1, 3, 4, 5)),
    }
    doubtful, good = {"english", "again", "vector"}, {"english", "good"}
    assert list_steps(database, job) == {f"k{n}": doubtful if n in {0, 2} else good for n in range(6)}
    assert {row["id"] for row in results(database, job.id, step="again")} == {"k0", "k2"}


def test_documents_that_are_not_selected_neither_fail_nor_are_missing(database: Database) -> None:
    job = Flagger(database).run()
    status = read_status(database, job.id)
    assert (status.state, status.failed, status.pending, status.lost) == ("done", 0, 0, 0)
    assert [(step.done, step.blocked) for step in status.steps] == [(6, 0), (2, 0), (2, 0), (4, 0)]
    assert list(failures(database, job.id)) == []
    counts = count_flags(database, job.id)
    assert {name: count.not_selected for name, count in counts.items()} == {
        "english": 0,
        "again": 4,
        "vector": 0,
        "good": 2,
    }
    spec_id = gc.specs(database, "summarize/synopsis")
    gc.drop(database, spec_ids=spec_id)
    assert read_status(database, job.id).lost == 2  # of the documents that had a result


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
    steps = (STEPS[0], StepRequest("again", prompted, "english", ONLY_DOUBTFUL))
    flagger = Flagger(database)
    job = flagger.run(steps)
    assert flagger.texts_of("summarize") == {"6: translate(text 0)", "6: translate(text 2)"}
    assert {row["id"] for row in results(database, job.id, step="again")} == {"k0", "k2"}
    before = flagger.computed.copy()
    flagger.run(steps)
    assert flagger.computed == before


def test_a_step_reads_outputs_below_a_bound_and_another_all_the_rest(database: Database) -> None:
    below = Flagged.parse(["confidence<0.5"])
    steps = (
        StepRequest("english", TRANSLATE),
        StepRequest("again", SUMMARIZE, "english", below),
        StepRequest("good", EMBED, "english", replace(below, lacking=True)),
        StepRequest("vector", EMBED, "again"),
    )
    flagger = Flagger(database)
    flagger.confidence = {"0": 0.2, "1": 0.5, "2": 0.9}  # the others have no confidence
    job = flagger.run(steps)
    assert flagger.texts_of("summarize") == {"translate(text 0)"}
    steps_of = list_steps(database, job)
    assert {key for key, steps in steps_of.items() if "vector" in steps} == {"k0"}
    assert {key for key, steps in steps_of.items() if "good" in steps} == {"k1", "k2", "k3", "k4", "k5"}
    assert read_status(database, job.id).lost == 0
    assert {name: count.not_selected for name, count in count_flags(database, job.id).items()} == {
        "english": 0,
        "again": 5,
        "good": 1,
        "vector": 0,
    }
    gc.drop(database, spec_ids=gc.specs(database, "summarize/synopsis"))
    assert read_status(database, job.id).lost == 1


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
