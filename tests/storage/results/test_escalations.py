"""The numbers of an escalation: shares, results that are the better model's, and seconds."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from docmill.storage.core.database import Database
from docmill.storage.results.escalations import count_escalated, shared_seconds
from docmill.storage.results.provenance import provenance
from docmill.storage.results.status import read_status
from docmill.storage.steps.steps import EscalationRequest, StepRequest
from docmill.worker.cli.formatting import escalated, of_status
from docmill.worker.cli.show import steps_table
from tests.storage.builders import TRANSLATE, set_shard, shards_of
from tests.storage.steps.test_escalation import ALONE, BEFORE_ANOTHER, LARGE, Models


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([("w", 0, 0.0, 10.0), ("w", 1, 10.0, 30.0)], {0: 10.0, 1: 20.0}),
        ([("w", 0, 0.0, 10.0), ("w", 1, 0.0, 10.0)], {0: 5.0, 1: 5.0}),  # at work together
        ([("w", 0, 0.0, 10.0), ("v", 1, 0.0, 10.0)], {0: 10.0, 1: 10.0}),  # in two processes
        ([("w", 0, 0.0, 10.0), ("w", 0, 0.0, 10.0), ("w", 1, 0.0, 10.0)], {0: 20 / 3, 1: 10 / 3}),
        ([("w", 0, 0.0, 4.0), ("w", 1, 2.0, 6.0), ("w", 1, 8.0, 9.0)], {0: 3.0, 1: 4.0}),
        ([], {}),
    ],
)
def test_shards_that_are_in_flight_together_share_the_time_of_their_process(
    spans: list[tuple[str, int, float, float]], seconds: dict[int, float]
) -> None:
    assert shared_seconds(spans) == pytest.approx(seconds)


def test_a_job_says_what_its_escalation_did_and_took(database: Database) -> None:
    models = Models(database)
    models.small = {"0": ("empty",), "2": ("empty",), "4": ("empty",)}
    models.large = {"4": ("empty", "repetition")}
    job = models.done()
    first, second = shards_of(database, job)
    set_shard(database, first.id, started_at=100.0, finished_at=106.0)
    set_shard(database, second.id, started_at=106.0, finished_at=118.0)
    (found,) = count_escalated(database, job.id).values()
    assert (found.texts, found.of, found.share, found.failed) == (3, 6, 0.5, 0)
    assert (found.won, found.documents, found.spec) == (2, 6, LARGE)
    assert found.seconds == 18.0
    assert found.alone_s == pytest.approx(24.0)


def test_a_run_that_computes_nothing_knows_no_seconds(database: Database) -> None:
    models = Models(database)
    models.done()
    (found,) = count_escalated(database, models.done().id).values()
    assert (found.texts, found.won) == (2, 2)
    assert (found.seconds, found.alone_s) == (None, None)
    assert "took no time: all of its results were there before" in escalated({"translate": found})
    plain = models.done(BEFORE_ANOTHER, source="b")
    assert [*count_escalated(database, plain.id)] == ["english"]


def test_a_run_in_which_only_the_better_model_computes_has_no_estimate(database: Database) -> None:
    models = Models(database)
    models.done((StepRequest("translate", TRANSLATE),))
    job = models.done()
    (again,) = shards_of(database, job)
    set_shard(database, again.id, started_at=100.0, finished_at=106.0)
    (found,) = count_escalated(database, job.id).values()
    assert (found.seconds, found.alone_s) == (6.0, None)
    assert escalated({"translate": found}).endswith("took about 6 s")


def test_lines_about_escalations_and_steps_fit_80_columns(database: Database) -> None:
    models = Models(database)
    folder = StepRequest("english", TRANSLATE, escalation=EscalationRequest(replace(LARGE, model="a-" * 20)))
    job = models.done((folder, replace(BEFORE_ANOTHER[1], name="vectors_of_the_english_texts")))
    lines = of_status(read_status(database, job.id), None, count_escalated(database, job.id))
    assert "a-" * 20 in lines["escalated"]  # not broken at its hyphens
    assert max(len(line) for name in ("steps", "escalated") for line in lines[name].splitlines()) <= 70
    console = Console(file=io.StringIO(), width=80)
    console.print(steps_table(read_status(database, job.id), {}))
    assert isinstance(console.file, io.StringIO)
    heading, english, _ = console.file.getvalue().splitlines()
    assert heading.split()[3:] == ["done", "failed", "to", "do", "escalated", "had", "before"]
    assert english.split()[-2:] == ["2", "0"]


def test_the_provenance_of_a_doubted_result_has_both_outcomes(database: Database) -> None:
    models = Models(database)
    models.small = {"0": ("empty",), "2": ("empty",), "4": ("empty",)}
    models.large = {"4": ("empty", "repetition")}
    models.refused = "2"
    job = models.done(ALONE)
    won = provenance(database, job.id, "k0").step
    assert won.escalation is not None
    assert won.escalation.second_won
    assert (won.spec, won.outcome) == (LARGE, won.escalation.second)
    assert won.escalation.first.output == {"text": "marian(text 0)"}
    assert won.batch is not None
    assert won.batch.texts == 3
    for key, status in (("k2", "failed"), ("k4", "done")):
        kept = provenance(database, job.id, key).step
        assert kept.escalation is not None
        assert kept.escalation.second is not None
        assert kept.escalation.second.status == status
        assert (kept.spec, kept.outcome) == (ALONE[0].spec, kept.escalation.first)
    assert provenance(database, job.id, "k1").step.escalation is None
