"""The tables of the schema's own state: ids that are never used again, and the releases that may work with it."""

from __future__ import annotations

from storage.core.tables import Base, column


class LastId(Base):
    """The largest id that a table had when rows of it were deleted; in SQLite only (`storage.core.sqlite`)."""

    __tablename__ = "last_id"
    name = column(str, primary_key=True)
    id = column(int)


class Compatibility(Base):
    """One row: the `oldest` revision of the schema whose release can still work with this database.

    A migration that only adds leaves it; one that takes away what an earlier release uses sets it to its own.
    """

    __tablename__ = "compatibility"
    oldest = column(str, primary_key=True)
