"""The table of what people said of outputs."""

from __future__ import annotations

from sqlalchemy import ForeignKeyConstraint

from storage.core.tables import Base, column


class Judgement(Base):
    """A person's verdict on the output of a content under a spec. It goes when the outcome goes.

    `verdict`: good, bad or skipped. `seed` is that of the draw which the output was judged in: it and the text's
    SHA-256 give the output's place in the draw (`storage.reviews.population`).
    """

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
            ["outcome.spec_id", "outcome.content_id"],
            name="fk_judgement_outcome",
            ondelete="CASCADE",
        ),
    )
