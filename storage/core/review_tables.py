"""The tables of what people said of outputs, and of risks that were fitted to it."""

from __future__ import annotations

from sqlalchemy import ForeignKey, ForeignKeyConstraint

from storage.core.tables import Base, Json, column


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


class RiskVersion(Base):
    """A risk of outputs under a spec, fitted to judgements; versions count from 1 for each spec.

    `model` is {"intercept", "features"} (see `storage.core.risk.RiskModel`), and `quality` what was measured of it.
    """

    __tablename__ = "risk_version"
    spec_id = column(int, ForeignKey("spec.id"), primary_key=True)
    version = column(int, primary_key=True)
    n_good = column(int)
    n_bad = column(int)
    model = column(Json)
    quality = column(Json)
    fitted_at = column(float)
