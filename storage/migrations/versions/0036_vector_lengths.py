"""The length of a spec's vectors is kept, so that a server that changes its model is noticed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

revision = "0036"
down_revision = "0035"

lengths = sa.table("vector_length", sa.column("spec_id", BIG), sa.column("numbers", BIG))
specs = sa.table("spec", sa.column("id", BIG), sa.column("kind", sa.Text()))
outcomes = sa.table(
    "outcome",
    *(sa.column("spec_id", BIG), sa.column("content_id", BIG)),
    *(sa.column("vector", sa.LargeBinary()), sa.column("data", JSON)),
)


def upgrade() -> None:
    op.create_table(
        "vector_length",
        sa.Column("spec_id", BIG, nullable=False),
        sa.Column("numbers", BIG, nullable=False),
        sa.ForeignKeyConstraint(["spec_id"], ["spec.id"], name=op.f("fk_vector_length_spec_id")),
        sa.PrimaryKeyConstraint("spec_id", name=op.f("pk_vector_length")),
    )
    connection = op.get_bind()
    first = sa.select(outcomes.c.vector, outcomes.c.data).where(outcomes.c.vector.is_not(None))
    for spec_id in connection.scalars(sa.select(specs.c.id).where(specs.c.kind == "embed")).all():
        of_spec = first.where(outcomes.c.spec_id == spec_id).order_by(outcomes.c.content_id).limit(1)
        if (row := connection.execute(of_spec).first()) is not None:
            numbers = (row.data or {}).get("dim") or len(row.vector) // 4
            op.execute(lengths.insert().values(spec_id=spec_id, numbers=numbers))
