"""The table of specs that take the place of others in a corpus."""

from __future__ import annotations

from sqlalchemy import ForeignKey

from storage.core.tables import Base, column, partial_index


class ReplacementRow(Base):
    """A spec that takes the place of another in a corpus: `docmill migrate`.

    `state` is filling (the old spec answers, a job computes the new one), switched (the new one answers), dropped
    (switched, and the old results may be gone), cancelled, or undone (the old one answers again). `old_job_id` is the
    job whose steps the backfill copies, and `job_id` the latest job of the backfill. `ended_at` is the time of the
    last change of `state`.
    """

    __tablename__ = "replacement"
    id = column(int, primary_key=True)
    corpus_id = column(int, ForeignKey("corpus.id", ondelete="CASCADE"), index=True)
    old_spec_id = column(int, ForeignKey("spec.id"))
    new_spec_id = column(int, ForeignKey("spec.id"))
    old_job_id = column(int)  # no foreign keys: jobs may be deleted
    job_id = column(int, nullable=True)
    state = column(str)
    created_at = column(float)
    ended_at = column(float, nullable=True)

    __table_args__ = (partial_index("uq_replacement_filling", "corpus_id", where="state = 'filling'", unique=True),)
