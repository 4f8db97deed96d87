"""Results by their flags: those that carry some, those that carry none, and how many carry each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Outcome
from docmill.storage.errors import StorageError
from docmill.storage.leases.shards import Claim
from docmill.storage.results import parts, results
from docmill.storage.results.job_counts import count_escalated, count_flags
from docmill.storage.results.status import read_status
from docmill.storage.steps.conditions import DOUBTS, Flagged
from docmill.storage.steps.steps import StepRequest
from docmill.storage.writers import Target
from tests.storage.builders import (
    COPY,
    TRANSLATE,
    by_text,
    finish,
    numbered,
    read,
    request,
    shard,
    work,
)
from tests.storage.steps.test_escalation import LARGE, Models
from tests.storage.steps.test_steps import pipeline

FLAGS = {
    0: ("output_truncated", "windowed"),
    1: ("windowed",),
    2: (),
    3: ("empty_window",),
    4: ("language:fr", "language_uncertain"),
    5: ("language:fr",),
}


# An output for each text, with the flags of the number at its end.
flagging = by_text(lambda text: {"text": f"out of {text}", "flags": FLAGS[int(text[-1]) % 6]})


def worked(database: Database, n: int) -> int:
    job = read(database, request(spec=TRANSLATE), numbered(n))
    finish(database, flagging)
    return job.id


def found(database: Database, job: int, *parts: str, lacking: bool = False, step: str | None = None) -> set[str]:
    flagged = Flagged.parse(parts or [DOUBTS], lacking=lacking)
    return {one["id"] for one in results.results(database, job, flagged=flagged, step=step)}


def test_results_are_those_with_a_doubtful_flag_or_with_those_that_are_named(database: Database) -> None:
    job = worked(database, 6)
    assert found(database, job) == {"k0", "k3", "k4"}
    assert found(database, job, lacking=True) == {"k1", "k2", "k5"}
    assert found(database, job, "windowed") == {"k0", "k1"}
    assert found(database, job, "windowed", "empty_window") == {"k0", "k1", "k3"}
    assert found(database, job, "windowed", lacking=True) == {"k2", "k3", "k4", "k5"}
    assert found(database, job, "empty") == set()
    # A name is not found within a longer one, and `language` is any.
    assert found(database, job, "language") == found(database, job, "language:fr") == {"k4", "k5"}
    assert found(database, job, "language:de") == set()


def test_they_come_in_the_order_of_the_source_page_after_page(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "PAGE", 3)
    job = worked(database, 40)
    every = list(results.results(database, job, with_input=True))
    for flagged in (Flagged(), Flagged(lacking=True)):
        some = list(results.results(database, job, with_input=True, flagged=flagged))
        doubted = [one for one in every if bool(flagged.names & {*one["flags"]}) is not flagged.lacking]
        assert some == doubted
        assert len(some) > 6


def test_of_several_steps_flags_and_bounds_of_any_count_and_with_a_step_only_its_own(database: Database) -> None:
    steps = (StepRequest("english", TRANSLATE), StepRequest("copy", COPY, "english"))
    job = read(database, pipeline(steps=steps), numbered(6)).id
    sure = {"translate": {0: 0.2, 1: 0.9, 2: 0.9}, "copy": {1: 0.9, 2: 0.1}}

    def work_both(claim: Claim) -> list[Outcome]:
        lane = str(shard(database, claim.shard_id).lane)

        def output(text: str) -> dict[str, Any] | None:
            n = int(text[-1])
            flags = FLAGS[n] if lane == "translate" else ("empty",) if n in {2, 5} else ()
            values = {"text": f"out of {text}", "flags": flags, "confidence": sure[lane].get(n)}
            return None if (lane, n) == ("copy", 0) else values

        return by_text(output)(claim)

    work(database, work_both)
    assert found(database, job) == {"k0", "k2", "k3", "k4", "k5"}
    assert found(database, job, lacking=True) == {"k1"}
    assert found(database, job, step="copy") == {"k2", "k5"}
    assert found(database, job, lacking=True, step="copy") == {"k1", "k3", "k4"}
    assert found(database, job, "confidence<0.5") == {"k0", "k2"}
    assert found(database, job, "confidence<0.5", step="english") == {"k0"}
    assert found(database, job, "confidence<0.5", "empty", step="copy") == {"k2", "k5"}
    assert found(database, job, "confidence>0.5", step="copy") == {"k1"}
    assert found(database, job, "confidence<0.5", "empty", lacking=True) == {"k1", "k3", "k4"}, "not all are known"
    counts = count_flags(database, job)
    assert [*counts] == ["english", "copy"]
    assert (counts["english"].doubtful, counts["copy"].doubtful) == (3, 2)
    assert counts["copy"].by_flag == {"empty": 2}


def test_parts_hold_them_too_and_go_on_only_with_the_same_condition(database: Database, tmp_path: Path) -> None:
    job, target = worked(database, 12), Target.of(tmp_path / "parts", "jsonl")
    parts.export(database, job, target, 2, flagged=Flagged())
    written = parts.export(database, job, target, 2, flagged=Flagged())
    assert (written.documents, written.parts, written.new) == (6, 3, 0)
    with pytest.raises(StorageError, match="flagged doubtful results, not all"):
        parts.export(database, job, target, 2)
    with pytest.raises(StorageError, match="flagged doubtful results, not unflagged empty"):
        parts.export(database, job, target, 2, flagged=Flagged(frozenset({"empty"}), lacking=True))
    assert parts.export(database, job, target, 2, replaced=True).documents == 12
    assert b'"flags": null' in (tmp_path / "parts" / "manifest.json").read_bytes()


def test_a_job_says_what_its_escalation_did(database: Database) -> None:
    models = Models(database)
    models.small = {"0": ("empty",), "2": ("empty",), "4": ("empty",)}
    models.large = {"4": ("empty", "repetition")}
    job = models.done()
    (found,) = count_escalated(database, read_status(database, job.id)).values()
    assert (found.texts, found.of, found.share, found.failed) == (3, 6, 0.5, 0)
    assert (found.won, found.documents, found.spec) == (2, 6, LARGE)
