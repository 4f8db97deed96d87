"""`docmill gc retention`: what it counts, removes and says, and what the status of an old job says then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from docmill.storage.core.database import Database
from docmill.storage.deletion.retention import RULES
from docmill.worker.jobs.errors import BAD_INPUT
from tests.storage.aging import days_pass
from tests.worker.conftest import Call
from tests.worker.harness import ROOT, Docmill

AGES = "results=30d,shards=10d,rejections=10d"


@pytest.fixture
def aged(embedded: Docmill, write_corpus: Callable[..., Path]) -> Docmill:
    """Two jobs with two models over a corpus with a wrong record, forty days ago, and ages in the environment."""
    with write_corpus([{"id": f"{n}", "text": f"text {n}"} for n in range(3)]).open("a") as corpus:
        corpus.write("no JSON\n")
    for tokens in ("null", "null@700"):
        embedded("run", "embed", "corpus.jsonl", "--model", tokens, code=4)
    days_pass(Database(f"sqlite:///{embedded.folder / 'home' / 'docmill.db'}"), 40)
    embedded.environment["DOCMILL_RETENTION"] = AGES
    return embedded


def n_outcomes(docmill: Docmill) -> int:
    [(n,)] = docmill.sql("SELECT count(*) FROM outcome")
    return int(n)


def test_rules_count_remove_and_say_what_they_removed(aged: Docmill) -> None:
    n_before = n_outcomes(aged)
    dry_run = aged("gc", "retention", "--dry-run")
    lines = dry_run.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert ["rejections", "10", "days", "rejection", "2"] in [line.split() for line in lines]
    assert "No age is set for versions: these rows stay." in dry_run.stderr
    assert "Nothing was removed: this was a dry run." in dry_run.stderr
    rows = aged.json("gc", "retention", "--dry-run")["rows"]
    assert {(row["rule"], row["table"]): row["rows"] for row in rows}["results", "outcome"] == 3
    assert n_outcomes(aged) == n_before

    assert "More may be left: the limit was reached." in aged("gc", "retention", "--limit", "1").stderr
    removed = aged.json("gc", "retention")
    assert removed["complete"]
    assert removed["ages_s"]["results"] == 30 * 86_400
    assert 3 <= removed["removed"]["results"] + removed["removed"]["rejections"] <= 5, "one was removed before"
    assert n_outcomes(aged) == 3
    assert not any(aged.json("gc", "retention")["removed"].values())

    old, new = (aged.json("status", job) for job in (1, 2))
    assert (old["swept"], old["lost"]) == (["shards", "rejections", "results"], 3)
    assert (new["swept"], new["lost"], new["done"]) == (["shards", "rejections"], 0, 3)
    assert [job[name] for job in aged.json("jobs") for name in ("swept", "lost", "removed")] == 6 * [None], "unknown"
    stdout = aged("status", "1").stdout
    assert "rejected records; their number stays (retention, rule rejections)" in stdout
    assert "results of 3 of its documents were removed since (retention, rule results)" in " ".join(stdout.split())
    assert "were removed since (retention, rule results)" in aged("results", "1", code=BAD_INPUT).stderr

    aged.sql(
        *(f"DELETE FROM {table} WHERE job_id = 1" for table in ("step", "shard")), "DELETE FROM job WHERE id = 1"
    )
    no_more = "there is no job 1 any more: it was removed with its corpus, or with its run"
    assert no_more in aged("status", "1", code=BAD_INPUT).stderr


def test_a_duration_and_an_age_are_required_in_words(call: Call) -> None:
    assert "'soon' is not a duration; write 90s, 10m or 1h" in call("gc", "retention", "--for", "soon", code=2).err
    assert "give --older-than DAYS, or --spec SPEC" in call("gc", "results", code=2).err


def test_every_rule_is_named_in_the_page() -> None:
    page = (ROOT / "docs" / "removing.md").read_text()
    table = page.partition("| rule | removes |")[2].partition("\n\n")[0]
    assert [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")] == [
        rule.name for rule in RULES
    ]
