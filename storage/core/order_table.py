"""The table of orders, which other programs send as `docmill.enqueue` messages."""

from __future__ import annotations

from sqlalchemy import Index

from storage.core.tables import Base, Json, column, partial_index


class EnqueueOrder(Base):
    """An order as its message had it, stored before anything of it is done. Its sender asks for it by `sender_id`.

    `state`: waiting, reading (its source), done (the job has it whole), refused, cancelled. `job_id` is no foreign
    key, so that the number is still known after the job was removed; `opened_at` is when the order came to it.
    `tries` counts how often it was taken and not given back since, `failures` the processes that died while they
    read it and its unexpected errors.
    """

    __tablename__ = "enqueue_order"
    id = column(int, primary_key=True)
    sender_id = column(str, unique=True)
    arguments = column(Json)
    state = column(str)
    reason = column(str, nullable=True)
    job_id = column(int, nullable=True)
    opened_at = column(float, nullable=True)
    not_before = column(float, default=0.0)
    tries = column(int, default=0)
    failures = column(int, default=0)
    owner = column(str, nullable=True)
    lease_until = column(float, nullable=True)
    fence = column(int, default=0)
    created_at = column(float)
    finished_at = column(float, nullable=True)

    __table_args__ = (
        partial_index("ix_enqueue_order_open", "id", where="finished_at IS NULL"),
        Index("ix_enqueue_order_finished_at", "finished_at"),
    )
