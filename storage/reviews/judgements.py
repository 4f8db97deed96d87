"""Judgements of outputs. They belong to a spec and a content, as outcomes do, so they hold for every job."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.normalize import normalize
from docmill.storage.core.schema import Content, Judgement, OutcomeRow, RiskVersion, db_now
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion.dependents import Dependent


class Verdict(StrEnum):
    GOOD = "good"
    BAD = "bad"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Judged:
    """A verdict on the output of a content, with the seed of the draw that it was judged in."""

    content_id: int
    verdict: Verdict
    judged_by: str
    seed: int
    note: str | None = None


def of_spec(database: Database, spec_id: int) -> dict[int, Judged]:
    """Return all judgements of a spec's outputs, by content."""
    columns = (Judgement.content_id, Judgement.verdict, Judgement.judged_by, Judgement.seed, Judgement.note)
    with database.read() as transaction:
        rows = transaction.execute(select(*columns).where(Judgement.spec_id == spec_id)).all()
    return {
        row.content_id: Judged(row.content_id, Verdict(row.verdict), row.judged_by, row.seed, row.note)
        for row in rows
    }


def store(database: Database, spec_id: int, judged: Sequence[Judged]) -> int:
    """Store judgements, and replace earlier ones of the same outputs. Return the number stored.

    Judgements of outputs that were removed meanwhile are not stored.
    """

    def work(transaction: Transaction) -> int:
        query = select(OutcomeRow.content_id).where(OutcomeRow.spec_id == spec_id, OutcomeRow.status == "done")
        ids = [one.content_id for one in judged]
        there = {row.content_id for row in transaction.probe(query, OutcomeRow.content_id, ids)}
        kept = [one for one in judged if one.content_id in there]
        for one in kept:
            values = {
                "verdict": one.verdict.value,
                "note": None if one.note is None else normalize(one.note)[0],
                "judged_by": normalize(one.judged_by)[0],
                "judged_at": db_now(),
                "seed": one.seed,
            }
            row = transaction.insert(Judgement).values(spec_id=spec_id, content_id=one.content_id, **values)
            transaction.execute(row.on_conflict_do_update(index_elements=["spec_id", "content_id"], set_=values))
        return len(kept)

    return database.write(work)


def contents_of(database: Database, spec_id: int, hashes: Collection[bytes]) -> dict[bytes, int]:
    """Return the contents with these SHA-256 that have a done output under a spec."""
    query = select(Content.id, Content.sha256).join(OutcomeRow, OutcomeRow.content_id == Content.id)
    query = query.where(OutcomeRow.spec_id == spec_id, OutcomeRow.status == "done")
    with database.read() as transaction:
        rows = transaction.probe(query, Content.sha256, hashes)
    return {row.sha256: row.id for row in rows}


def _judged_specs(transaction: Transaction) -> set[int]:
    """Return the specs with judgements, or with risks that were fitted to judgements."""
    tables = (Judgement, RiskVersion)
    return {spec_id for table in tables for spec_id in transaction.scalars(select(table.spec_id).distinct())}


DEPENDENT = Dependent(_judged_specs)
