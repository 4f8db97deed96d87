"""Outputs that a database cannot store are repaired and flagged, or fail alone."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Outcome, Status, make_storable
from docmill.storage.leases import shards
from docmill.storage.leases.shards import Claim
from docmill.storage.results.results import failures, results
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs
from docmill.storage.steps.steps import StepRequest
from tests.storage.builders import (
    COPY,
    TRANSLATE,
    assert_status,
    claim_next,
    commit_next,
    done,
    limit_sqlite,
    numbered,
    read,
    request,
    shard,
    work,
)

BAD = "a NUL \0, half a character \ud800 and a whole one é"
REPAIRED = "a NUL \ufffd, half a character \ufffd and a whole one é"


def change_second(claim: Claim, **changes: Any) -> list[Outcome]:
    """Return a result for each text of a claim, the second of which has these values."""
    outcomes = done(claim)
    return [outcomes[0], replace(outcomes[1], **changes), *outcomes[2:]]


def test_the_next_step_reads_the_repaired_output(database: Database) -> None:
    steps = (StepRequest("first", TRANSLATE), StepRequest("second", COPY, input="first"))
    read(database, request(steps=steps), numbered(1))
    commit_next(database, lambda claim: [replace(done(claim)[0], text=BAD)])
    assert [text for _, text in claim_next(database).texts] == [REPAIRED]


@pytest.mark.parametrize(
    "data",
    [{"n": 2**70}, {"n": float("nan")}, {"n": [[float("inf")]]}, {1: object()}],
    ids=["big", "nan", "inf", "object"],
)
def test_an_output_without_a_json_form_fails(data: Any) -> None:
    failed = make_storable(Outcome(1, Status.DONE, data={"data": data}))
    assert (failed.status, failed.reason_class, failed.data) == ("failed", "model", None)
    assert "has no JSON form" in (failed.reason or "")


@pytest.fixture
def picky(database: Database) -> Database:
    """A store that refuses outputs of 5,000 characters: SQLite by its own limit, PostgreSQL by a trigger."""
    if database.server is None:
        database.engine.dispose()
        limit_sqlite(database, sqlite3.SQLITE_LIMIT_LENGTH, 5_000)
    else:
        function = """
            CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN
                IF length(NEW.text) >= 5000 THEN
                    RAISE EXCEPTION 'too long: %', NEW.text USING ERRCODE = 'string_data_right_truncation';
                END IF;
                RETURN NEW;
            END $$ LANGUAGE plpgsql
        """
        with database.engine.begin() as connection:
            connection.exec_driver_sql(function.replace("%", "%%"))
            connection.exec_driver_sql(
                "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON outcome FOR EACH ROW EXECUTE FUNCTION refuse()"
            )
    return database


def test_an_output_that_the_database_refuses_fails_alone_and_spends_no_attempt(picky: Database) -> None:
    job = read(picky, request(spec=TRANSLATE), numbered(3))
    claim = commit_next(picky, lambda claim: change_second(claim, text="secret" * 1_000))
    assert shard(picky, claim.shard_id).state == "done"
    [failure] = failures(picky, job.id)
    assert (failure["id"], failure["class"]) == ("k1", "model")
    assert "the database cannot store its output" in failure["reason"]
    assert "secret" not in failure["reason"]
    assert len(list(results(picky, job.id))) == 2
    jobs.finish(picky)
    assert_status(picky, job.id, state="done", done=2, failed=1)


def test_an_output_that_the_database_refuses_fails_when_a_drain_releases_it(picky: Database) -> None:
    job = read(picky, request(spec=TRANSLATE), numbered(3))
    claim = claim_next(picky)
    shards.release(picky, claim, change_second(claim, text="x" * 6_000)[:2])
    assert_status(picky, job.id, done=1, failed=1, pending=1)
    work(picky)
    assert read_status(picky, job.id).done == 2


@given(st.text(st.characters(exclude_categories=[])))
def test_a_storable_output_is_unchanged_and_any_other_is_repaired_and_flagged(text: str) -> None:
    repaired = make_storable(Outcome(1, Status.DONE, text=text, reason=text, data={text: [{"a": text}, 1.5, None]}))
    assert repaired.text is not None
    repaired.text.encode()
    assert "\0" not in repaired.text
    assert (repaired.text == text) == (repaired.flags == ())
    assert len(repaired.text) == len(text)
    assert (repaired.reason, repaired.data) == (repaired.text, {repaired.text: [{"a": repaired.text}, 1.5, None]})
    assert make_storable(repaired) == repaired


def test_an_output_of_json_alone_is_flagged_as_a_text_is() -> None:
    for bad in (Outcome(1, Status.DONE, text=BAD), Outcome(1, Status.DONE, data={"a\0": "\ud800"})):
        flags = make_storable(replace(bad, flags=("windowed",))).flags
        assert flags == ("windowed", "output_nul_replaced", "output_surrogate_replaced")
