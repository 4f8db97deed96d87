"""The tables of judgements of outputs, and of the risks that are fitted to them."""

from __future__ import annotations

from sqlalchemy import ForeignKey, ForeignKeyConstraint

from storage.core.tables import Base, Json, column


class Judgement(Base):
    """A person's verdict on the output of a content under a spec. It is deleted with the outcome.

    `verdict` is good, bad or skipped. `seed` is the seed of the draw in which the output was judged. The seed and the
    text's SHA-256 give the output's place in the draw (`storage.reviews.population`).
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
    """A model of the risk that outputs of a spec are bad, fitted to judgements. Versions of a spec count from 1.

    `model` is {"intercept", "features"} (see `storage.core.risk.RiskModel`), and `quality` has its measures.
    """

    __tablename__ = "risk_version"
    spec_id = column(int, ForeignKey("spec.id"), primary_key=True)
    version = column(int, primary_key=True)
    n_good = column(int)
    n_bad = column(int)
    model = column(Json)
    quality = column(Json)
    fitted_at = column(float)
