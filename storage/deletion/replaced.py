"""Specs that migrations replaced, and whose results nothing needs any more."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import select, update

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import SPEC, spec_of
from docmill.storage.core.schema import Corpus, Job, ReplacementRow, SpecRow, Step
from docmill.storage.core.tables import db_now
from docmill.storage.core.transaction import Transaction
from docmill.storage.steps import replacements
from docmill.storage.steps.replacements import DROPPED, FILLING, IN_FORCE, SWITCHED


@dataclass(frozen=True)
class Replaced:
    """Specs whose results may go, and for each spec that stays a sentence with a corpus that still has it."""

    spec_ids: tuple[int, ...]
    staying: tuple[str, ...]


def replaced_specs(database: Database, older_than_s: float) -> Replaced:
    """Return the specs that were replaced before then in every corpus that has jobs with them."""
    with database.read() as transaction:
        old_enough = ReplacementRow.ended_at <= db_now() - older_than_s
        query = select(ReplacementRow.old_spec_id).where(ReplacementRow.state.in_(IN_FORCE), old_enough)
        going, staying = list[int](), list[str]()
        for spec_id in sorted({*transaction.scalars(query)}):
            corpora = _needing(transaction, spec_id, older_than_s)
            if corpora:
                row = transaction.execute(select(*SPEC).where(SpecRow.id == spec_id)).one()
                staying.append(f"{spec_of(row)} stays: the corpus {corpora[0]} has it")
            else:
                going.append(spec_id)
    return Replaced(tuple(going), tuple(staying))


def _needing(transaction: Transaction, spec_id: int, older_than_s: float) -> list[str]:
    """Return the corpora in which a spec was not replaced, or takes the place of another."""
    query = select(Corpus.id, Corpus.name).join(Job, Job.corpus_id == Corpus.id).join(Step, Step.job_id == Job.id)
    found = transaction.execute(query.where(Step.spec_id == spec_id).distinct().order_by(Corpus.id)).all()
    now = transaction.execute(select(db_now())).scalar_one()
    needing = []
    for corpus in found:
        of_corpus = replacements.of_corpus(transaction, corpus.id)
        lately = any(
            spec_id == one.old_spec_id and one.state == SWITCHED and (one.ended_at or now) > now - older_than_s
            for one in of_corpus
        )
        to_be = any(one.state == FILLING and one.new_spec_id == spec_id for one in of_corpus)
        if lately or to_be or spec_id not in replacements.in_force(of_corpus):
            needing.append(corpus.name)
    return needing


def note_dropped(database: Database, spec_ids: Collection[int], older_than_s: float) -> tuple[int, ...]:
    """Note that the old results of these specs go, so that their replacements cannot be undone.

    Return the specs that still may go: a replacement may have been undone since `replaced_specs`.
    """

    def work(transaction: Transaction) -> tuple[int, ...]:
        mine = select(ReplacementRow.id).where(ReplacementRow.state == SWITCHED)
        transaction.execute(transaction.for_update(mine.where(ReplacementRow.old_spec_id.in_(spec_ids)))).all()
        going = tuple(spec_id for spec_id in spec_ids if not _needing(transaction, spec_id, older_than_s))
        noted = update(ReplacementRow).where(ReplacementRow.old_spec_id.in_(going), ReplacementRow.state == SWITCHED)
        transaction.execute(noted.values(state=DROPPED))
        return going

    return database.write(work)
