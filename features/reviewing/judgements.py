"""Judgements of outputs. They belong to a spec and a content, as outcomes do, so they hold for every job."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import ForeignKeyConstraint, select

from docmill.storage.core.database import Database
from docmill.storage.core.normalize import normalize
from docmill.storage.core.schema import Base, Content, OutcomeRow, RiskVersion, column, db_now, new_metadata
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion.needed import Dependent
from docmill.storage.outputs.output_types import CONFIDENCE
from docmill.storage.steps.risk import Result


class Judgement(Base):
    """A person's verdict on the output of a content under a spec. It is deleted with the outcome.

    `verdict` is good, bad or skipped. `seed` is the seed of the draw in which the output was judged. The seed and the
    text's SHA-256 give the output's place in the draw (`features.reviewing.population`).
    """

    metadata = new_metadata()
    __tablename__ = "judgement"
    spec_id = column(int, primary_key=True)
    content_id = column(int, primary_key=True)
    verdict = column(str)
    note = column(str, nullable=True)
    judged_by = column(str)
    judged_at = column(float)
    seed = column(int)

    __table_args__ = (
        ForeignKeyConstraint(
            ["spec_id", "content_id"],
            [OutcomeRow.__table__.c.spec_id, OutcomeRow.__table__.c.content_id],
            name="fk_judgement_outcome",
            ondelete="CASCADE",
        ),
    )


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


def read(database: Database, spec_id: int) -> dict[int, Judged]:
    """Return all judgements of a spec's outputs, by content."""
    columns = (Judgement.content_id, Judgement.verdict, Judgement.judged_by, Judgement.seed, Judgement.note)
    rows = database.rows(select(*columns).where(Judgement.spec_id == spec_id))
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
        ids = [judgement.content_id for judgement in judged]
        there = {row.content_id for row in transaction.probe(query, OutcomeRow.content_id, ids)}
        kept = [judgement for judgement in judged if judgement.content_id in there]
        for judgement in kept:
            values = {
                "verdict": judgement.verdict.value,
                "note": None if judgement.note is None else normalize(judgement.note)[0],
                "judged_by": normalize(judgement.judged_by)[0],
                "judged_at": db_now(),
                "seed": judgement.seed,
            }
            row = transaction.insert(Judgement).values(spec_id=spec_id, content_id=judgement.content_id, **values)
            transaction.execute(row.on_conflict_do_update(index_elements=["spec_id", "content_id"], set_=values))
        return len(kept)

    return database.write(work)


def find_contents(database: Database, spec_id: int, hashes: Collection[bytes]) -> dict[bytes, int]:
    """Return the contents with these SHA-256 that have a done output under a spec."""
    query = select(Content.id, Content.sha256).join(OutcomeRow, OutcomeRow.content_id == Content.id)
    query = query.where(OutcomeRow.spec_id == spec_id, OutcomeRow.status == "done")
    with database.read() as transaction:
        rows = transaction.probe(query, Content.sha256, hashes)
    return {row.sha256: row.id for row in rows}


def read_judged_results(database: Database, spec_id: int) -> list[tuple[Result, bool]]:
    """Return the judged outputs of a spec in the order of their ids, each with True if it is bad.

    They are results without ids and texts.
    """
    confidence = [OutcomeRow.__table__.c[name] for name in CONFIDENCE]
    query = (
        select(Judgement.verdict, OutcomeRow.flags, OutcomeRow.tokens_in, OutcomeRow.tokens_out, *confidence)
        .join(Judgement, (Judgement.spec_id == OutcomeRow.spec_id) & (Judgement.content_id == OutcomeRow.content_id))
        .where(Judgement.spec_id == spec_id, Judgement.verdict != Verdict.SKIPPED.value)
        .order_by(Judgement.content_id)
    )
    rows = database.rows(query)
    return [(dict(row._mapping), row.verdict == Verdict.BAD) for row in rows]


def _judged_specs(transaction: Transaction) -> set[int]:
    """Return the specs with judgements, or with risks that were fitted to judgements."""
    tables = (Judgement, RiskVersion)
    return {spec_id for table in tables for spec_id in transaction.scalars(select(table.spec_id).distinct())}


DEPENDENT = Dependent(_judged_specs)
