"""Results by their flags: with some of them, without them, and the count of each flag."""

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
from tests.storage.builders import COPY, TRANSLATE, by_text, numbered, read, request, run_job, shard, work
from tests.storage.steps.test_escalation import LARGE, Models

FLAGS = {
    0: ("output_truncated", "windowed"),
    1: ("windowed",),
    2: (),
    3: ("empty_window",),
    4: ("language:fr", "language_uncertain"),
    5: ("language:fr",),
}


# Computes an output for each text, with the flags of the number at its end.
flagging = by_text(lambda text: {"text": f"out of {text}", "flags": FLAGS[int(text[-1]) % 6]})


def run_flagged(database: Database, n: int) -> int:
    """Run a job over n texts, some of whose outputs have flags. Return its number."""
    return run_job(database, request(spec=TRANSLATE), numbered(n), flagging).id


def select_ids(database: Database, job: int, *parts: str, lacking: bool = False, step: str | None = None) -> set[str]:
    """Return the ids of the results that a condition selects."""
    flagged = Flagged.parse(parts or [DOUBTS], lacking=lacking)
    return {row["id"] for row in results.results(database, job, flagged=flagged, step=step)}


def test_results_are_selected_by_doubtful_or_named_flags(database: Database) -> None:
    job = run_flagged(database, 6)
    assert select_ids(database, job) == {"k0", "k3", "k4"}
    assert select_ids(database, job, lacking=True) == {"k1", "k2", "k5"}
    assert select_ids(database, job, "windowed") == {"k0", "k1"}
    assert select_ids(database, job, "windowed", "empty_window") == {"k0", "k1", "k3"}
    assert select_ids(database, job, "windowed", lacking=True) == {"k2", "k3", "k4", "k5"}
    assert select_ids(database, job, "empty") == set()
    # A name does not match a longer one, and `language` matches any language.
    assert select_ids(database, job, "language") == select_ids(database, job, "language:fr") == {"k4", "k5"}
    assert select_ids(database, job, "language:de") == set()


def test_flagged_results_are_in_the_order_of_the_source(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "PAGE", 3)
    job = run_flagged(database, 40)
    every = list(results.results(database, job, with_input=True))
    for flagged in (Flagged(), Flagged(lacking=True)):
        some = list(results.results(database, job, with_input=True, flagged=flagged))
        doubted = [row for row in every if bool(flagged.names & {*row["flags"]}) is not flagged.lacking]
        assert some == doubted
        assert len(some) > 6


def test_flags_of_any_step_count_unless_a_step_is_named(database: Database) -> None:
    steps = (StepRequest("english", TRANSLATE), StepRequest("copy", COPY, "english"))
    job = read(database, request(steps=steps), numbered(6)).id
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
    assert select_ids(database, job) == {"k0", "k2", "k3", "k4", "k5"}
    assert select_ids(database, job, lacking=True) == {"k1"}
    assert select_ids(database, job, step="copy") == {"k2", "k5"}
    assert select_ids(database, job, lacking=True, step="copy") == {"k1", "k3", "k4"}
    assert select_ids(database, job, "confidence<0.5") == {"k0", "k2"}
    assert select_ids(database, job, "confidence<0.5", step="english") == {"k0"}
    assert select_ids(database, job, "confidence<0.5", "empty", step="copy") == {"k2", "k5"}
    assert select_ids(database, job, "confidence>0.5", step="copy") == {"k1"}
    assert select_ids(database, job, "confidence<0.5", "empty", lacking=True) == {"k1", "k3", "k4"}, (
        "some confidences are unknown"
    )
    counts = count_flags(database, job)
    assert [*counts] == ["english", "copy"]
    assert (counts["english"].doubtful, counts["copy"].doubtful) == (3, 2)
    assert counts["copy"].by_flag == {"empty": 2}


def test_parts_of_flagged_results_are_continued_with_the_same_condition(database: Database, tmp_path: Path) -> None:
    job, target = run_flagged(database, 12), Target.of(tmp_path / "parts", "jsonl")
    parts.export(database, job, target, 2, flagged=Flagged())
    written = parts.export(database, job, target, 2, flagged=Flagged())
    assert (written.documents, written.parts, written.new) == (6, 3, 0)
    with pytest.raises(StorageError, match="flagged doubtful results, not all"):
        parts.export(database, job, target, 2)
    with pytest.raises(StorageError, match="flagged doubtful results, not unflagged empty"):
        parts.export(database, job, target, 2, flagged=Flagged(frozenset({"empty"}), lacking=True))
    assert parts.export(database, job, target, 2, replaced=True).documents == 12
    assert b'"flags": null' in (tmp_path / "parts" / "manifest.json").read_bytes()


def test_a_job_counts_the_texts_of_its_escalation(database: Database) -> None:
    models = Models(database)
    models.small = {"0": ("empty",), "2": ("empty",), "4": ("empty",)}
    models.large = {"4": ("empty", "repetition")}
    job = models.run_job()
    (escalated,) = count_escalated(database, read_status(database, job.id)).values()
    assert (escalated.texts, escalated.of, escalated.share, escalated.failed) == (3, 6, 0.5, 0)
    assert (escalated.won, escalated.documents, escalated.spec) == (2, 6, LARGE)
